//! Progress of long work, on standard error and on a terminal alone.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A spinner or a bar; gone when it is dropped. Without a terminal it is nothing.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Work of unknown length: what it is, and for how long it has gone on.
    pub(super) fn spinner(what: &str) -> Self {
        Self::new(None, what, "{spinner} {msg} {elapsed}")
    }

    /// Work on `length` things.
    pub(super) fn bar(length: u64, what: &str) -> Self {
        Self::new(
            Some(length),
            what,
            "{msg} {wide_bar} {human_pos}/{human_len} {eta}",
        )
    }

    fn new(length: Option<u64>, what: &str, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        if bar.is_hidden() {
            return Self { bar };
        }
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar }
    }

    /// Whether anybody sees it.
    pub(super) fn is_shown() -> bool {
        !ProgressDrawTarget::stderr().is_hidden()
    }

    pub(super) fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    pub(super) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
