//! What the kernel tells of writes to a file, where it does (inotify(7), on Linux). The file is never opened for it.

use std::path::Path;
use std::time::Duration;

pub(super) use kernel::WriteEvents;

#[cfg(target_os = "linux")]
mod kernel {
    use std::os::fd::OwnedFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    use rustix::io::{Errno, read};

    use super::{Duration, Path};

    /// Where the events arrive.
    #[derive(Debug)]
    pub(in super::super) struct WriteEvents(OwnedFd);

    impl WriteEvents {
        pub(in super::super) fn new() -> Option<Self> {
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .ok()
                .map(Self)
        }

        /// Asks to be told of the next write to `file`, of one alone: whoever writes a lot is to pay for no more. Whether that
        /// will be told.
        pub(in super::super) fn ask(&self, file: &Path) -> bool {
            inotify::add_watch(&self.0, file, WatchFlags::MODIFY | WatchFlags::ONESHOT).is_ok()
        }

        /// Returns when something was told, at the latest after `limit`. Whether something was.
        pub(in super::super) fn wait(&self, limit: Duration) -> bool {
            let limit = Timespec::try_from(limit).ok();
            let mut arrivals = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut arrivals, limit.as_ref()) {
                Ok(0) | Err(Errno::INTR) => return false,
                _ => {}
            }
            let (mut any, mut buffer) = (false, [0_u8; 1024]);
            while read(&self.0, &mut buffer).is_ok_and(|count| count > 0) {
                any = true;
            }
            any
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    use super::{Duration, Path};

    #[derive(Debug)]
    pub(in super::super) struct WriteEvents;

    impl WriteEvents {
        pub(in super::super) fn new() -> Option<Self> {
            None
        }

        pub(in super::super) fn ask(&self, _file: &Path) -> bool {
            false
        }

        pub(in super::super) fn wait(&self, _limit: Duration) -> bool {
            false
        }
    }
}

// Linux alone has them.
#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_write_is_told_of_each_time_it_was_asked_and_a_read_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let events = WriteEvents::new().unwrap();
        assert!(!events.ask(&file), "there is none");
        std::fs::write(&file, "one").unwrap();
        assert!(!events.wait(Duration::ZERO), "nobody had asked");
        for _ in 0..2 {
            assert!(events.ask(&file));
            std::fs::read(&file).unwrap();
            assert!(!events.wait(Duration::ZERO));
            std::fs::write(&file, "two").unwrap();
            assert!(events.wait(Duration::MAX));
            std::fs::write(&file, "three").unwrap();
            assert!(!events.wait(Duration::ZERO), "one alone");
        }
    }
}
