//! Noticing that `larder.toml` has changed, by looking at it again and again: what notifies of changes misses files that
//! are replaced by a rename, the links of a Kubernetes config map, and network file systems.

use std::fs::Metadata;
use std::path::PathBuf;

use super::environment::Environment;
use super::source::{Content, File, Place};
use super::{Loaded, ScheduleDefault, Settings};
use crate::Error;

/// Two changes within a step of the file system's clock look like one, so that a file that has just changed is read some
/// more times whatever its times say.
const SETTLED: u8 = 8;

/// The settings' file and what was last made of it.
pub(crate) struct Watch {
    place: Place,
    defaults: Vec<ScheduleDefault>,
    /// As it was at the start: it stays over the file.
    environment: Environment,
    /// The content that is in effect.
    effective: Content,
    /// The content that was read last, and whether it is dealt with: one that is being written is not read twice alike.
    last: (Content, bool),
    stamp: Option<Stamp>,
    unsettled: u8,
}

impl Watch {
    /// Watches the file that `loaded` came from, or would have come from if it had been there.
    pub(crate) fn new(
        loaded: &Loaded,
        asked: Option<PathBuf>,
        defaults: Vec<ScheduleDefault>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let environment = Environment::read(env);
        let content = loaded.origin.0.file.content();
        Self {
            place: Place::new(asked.as_deref(), environment.config.as_ref()),
            defaults,
            environment,
            effective: content.clone(),
            last: (content, true),
            stamp: None,
            unsettled: SETTLED,
        }
    }

    /// The file that is watched.
    pub(crate) fn path(&self) -> String {
        self.place.path.display().to_string()
    }

    /// Looks at the file. `None` where there is nothing new: a content is taken when it is found a second time, and
    /// told of once.
    ///
    /// # Errors
    /// Where the new content is no good.
    pub(crate) fn look(&mut self) -> Option<Result<Loaded, Error>> {
        let stamp = std::fs::metadata(&self.place.path).ok().map(Stamp::new);
        if self.stamp != stamp {
            self.stamp = stamp;
            self.unsettled = SETTLED;
        }
        self.unsettled = self.unsettled.checked_sub(1)?;
        let content = self.place.content();
        let (last, done) = &mut self.last;
        if *last != content {
            self.unsettled = SETTLED;
            self.last = (content, false);
            return None;
        }
        if std::mem::replace(done, true) {
            return None;
        }
        Some(self.take(content))
    }

    fn take(&mut self, content: Content) -> Result<Loaded, Error> {
        let mut place = self.place.clone();
        // A file that was there has not been given up by going away.
        place.optional &= matches!(self.effective, Content::Absent(_));
        let file = File::of(place, content.clone())?;
        let loaded = Settings::from_file(&self.defaults, file, self.environment.clone())?;
        self.effective = content;
        Ok(loaded)
    }
}

/// What tells two states of a file apart without reading it.
#[derive(PartialEq)]
struct Stamp {
    size: u64,
    modified: Option<std::time::SystemTime>,
    #[cfg(unix)]
    changed: [i64; 2],
    #[cfg(unix)]
    inode: [u64; 2],
}

impl Stamp {
    fn new(metadata: Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Self {
            size: metadata.len(),
            modified: metadata.modified().ok(),
            // Whoever sets the time of a file's change cannot set this one.
            #[cfg(unix)]
            changed: [metadata.ctime(), metadata.ctime_nsec()],
            #[cfg(unix)]
            inode: [metadata.dev(), metadata.ino()],
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A file that is there if `text` is given, and the watch of it.
    fn watched(text: Option<&str>, optional: bool) -> (tempfile::TempDir, PathBuf, Watch) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("larder.toml");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let loaded = match text {
            Some(_) => Settings::load(Some(&path), []).unwrap(),
            None => Settings::load_with(&[], None, []).unwrap(),
        };
        let mut watch = Watch::new(&loaded, Some(path.clone()), Vec::new(), []);
        watch.place.optional = optional;
        (folder, path, watch)
    }

    fn concurrency(look: Option<Result<Loaded, Error>>) -> usize {
        look.unwrap().unwrap().settings.worker.concurrency
    }

    #[test]
    fn a_content_is_taken_when_it_is_found_twice() {
        let (_folder, path, mut watch) = watched(Some("[worker]\nconcurrency = 1"), false);
        assert!(watch.look().is_none() && watch.look().is_none());
        // A file that is being written, and would be good as it is.
        for text in ["", "[worker]\n", "[worker]\nconcurrency = 2"] {
            std::fs::write(&path, text).unwrap();
            assert!(watch.look().is_none(), "{text}");
        }
        assert_eq!(concurrency(watch.look()), 2);
        assert!(watch.look().is_none());
    }

    #[test]
    fn a_file_whose_times_say_nothing_is_read_some_more_times() {
        let (_folder, path, mut watch) = watched(Some("[worker]\nconcurrency = 1"), false);
        watch.look();
        std::fs::write(&path, "[worker]\nconcurrency = 2").unwrap();
        // As if both had happened within one step of the file system's clock.
        watch.stamp = std::fs::metadata(&path).ok().map(Stamp::new);
        assert!(watch.look().is_none());
        assert_eq!(concurrency(watch.look()), 2);
    }

    #[test]
    fn a_file_that_has_settled_is_not_read() {
        let (_folder, path, mut watch) = watched(Some("[worker]\nconcurrency = 1"), false);
        for _ in 0..=SETTLED {
            watch.look();
        }
        std::fs::write(&path, "[worker]\nconcurrency = 2").unwrap();
        watch.stamp = std::fs::metadata(&path).ok().map(Stamp::new);
        assert!(watch.look().is_none() && watch.look().is_none());
        let touched = std::time::SystemTime::UNIX_EPOCH;
        std::fs::File::open(&path)
            .unwrap()
            .set_modified(touched)
            .unwrap();
        assert!(watch.look().is_none());
        assert_eq!(concurrency(watch.look()), 2);
    }

    #[test]
    fn a_fault_is_told_once_and_a_file_that_goes_away_is_one() {
        let (_folder, path, mut watch) = watched(Some(""), true);
        std::fs::write(&path, "[worker]\nconcurrency = 0").unwrap();
        assert!(watch.look().is_none());
        let fault = watch.look().unwrap().unwrap_err().to_string();
        assert!(fault.contains("larder.toml:2"), "{fault}");
        assert!(watch.look().is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(watch.look().is_none());
        let gone = watch.look().unwrap().unwrap_err().to_string();
        assert!(
            gone.starts_with("cannot read ") && gone.contains("larder.toml: No such file"),
            "{gone}"
        );
        std::fs::write(&path, "").unwrap();
        assert!(watch.look().is_none());
        assert_eq!(concurrency(watch.look()), 16);
    }

    #[test]
    fn a_file_that_was_not_there_may_come_and_a_bad_one_may_go() {
        let (_folder, path, mut watch) = watched(None, true);
        assert!(watch.look().is_none() && watch.look().is_none());
        std::fs::write(&path, "[worker]\nconcurrency = 0").unwrap();
        assert!(watch.look().is_none());
        assert!(watch.look().unwrap().is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(watch.look().is_none());
        assert_eq!(concurrency(watch.look()), 16);
        std::fs::write(&path, "[worker]\nconcurrency = 3").unwrap();
        assert!(watch.look().is_none());
        assert_eq!(concurrency(watch.look()), 3);
    }
}
