//! Having the disk take what was folded into an SQLite file, while others write on.
//!
//! SQLite does so when all of the log is folded, and while others write all of it never is. To close a file gives up all locks
//! that this process has on it, SQLite's own: so what is opened here stays open, a file once.

use std::path::Path;

/// Where it fails nothing is lost: SQLite flushes the file itself before it begins its log anew.
#[cfg(unix)]
pub(super) fn flush(file: &Path) {
    if let Some(file) = unix::open(file) {
        let _ = file.sync_data();
    }
}

/// Elsewhere a file must be open for writing to be flushed.
#[cfg(not(unix))]
pub(super) fn flush(_: &Path) {}

#[cfg(unix)]
mod unix {
    use std::fs::{File, Metadata};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::super::here::held;

    type Identity = (u64, u64);

    static FILES: Mutex<Vec<(Identity, Arc<File>)>> = Mutex::new(Vec::new());

    pub(super) fn open(path: &Path) -> Option<Arc<File>> {
        let mut files = held(&FILES);
        let identity = std::fs::metadata(path).ok().as_ref().map(self::identity)?;
        if let Some((_, file)) = files.iter().find(|(of, _)| *of == identity) {
            return Some(file.clone());
        }
        let file = Arc::new(File::open(path).ok()?);
        // It may be another one by now.
        let identity = file.metadata().as_ref().map_or(identity, self::identity);
        files.push((identity, file.clone()));
        Some(file)
    }

    fn identity(metadata: &Metadata) -> Identity {
        (metadata.dev(), metadata.ino())
    }
}
