//! Progress of long work, on standard error: a bar or a spinner on a terminal, now and then a plain line elsewhere.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Without a terminal, work that takes this long is told of, and again after each such time.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

const SPINNER: &str = "{spinner} {msg} {elapsed}";
const BAR: &str = "{msg} {wide_bar} {human_pos}/{human_len} {eta}";

/// A spinner, a bar or plain lines; at an end when it is dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    plain: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Work of unknown length: what it is, and for how long it has gone on.
    pub(super) fn spinner(what: &str) -> Self {
        Self::new(None, what, SPINNER)
    }

    /// Work on `length` things.
    pub(super) fn bar(length: u64, what: &str) -> Self {
        Self::new(Some(length), what, BAR)
    }

    fn new(length: Option<u64>, what: &str, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        bar.set_message(what.to_owned());
        if bar.is_hidden() {
            let (end, ended) = channel();
            let shown = bar.clone();
            let teller =
                std::thread::spawn(move || tell(&shown, PLAIN_EVERY, &ended, io::stderr()));
            return Self {
                bar,
                plain: Some((end, teller)),
            };
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        let shown = Self { bar, plain: None };
        shown.restyle(template);
        shown
    }

    /// Whether there is a terminal to show it.
    pub(super) fn is_shown() -> bool {
        !ProgressDrawTarget::stderr().is_hidden()
    }

    pub(super) fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// So much of a length that may change, and that was perhaps not known so far: the spinner becomes a bar.
    pub(super) fn at_of(&self, position: u64, length: u64) {
        if self.bar.length().is_none() {
            self.restyle(BAR);
        }
        self.bar.set_length(length);
        self.bar.set_position(position);
    }

    /// Nothing is known of a length any more: the bar becomes a spinner.
    pub(super) fn without_length(&self) {
        if self.bar.length().is_some() {
            self.restyle(SPINNER);
            self.bar.unset_length();
            self.bar.set_position(0);
        }
    }

    fn restyle(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }

    pub(super) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, teller)) = self.plain.take() {
            // Nothing is told after this: the next line is the result, or the error.
            drop(end);
            let _ = teller.join();
        }
        self.bar.finish_and_clear();
    }
}

/// Writes a line of where `bar` stands, each time that `every` has gone by, until the other end of `ended` is gone.
fn tell(bar: &ProgressBar, every: Duration, ended: &Receiver<()>, mut to: impl Write) {
    while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let seconds = bar.elapsed().as_secs();
        let line = match (bar.position(), bar.length()) {
            (0, _) => format!("{}: {seconds} s", bar.message()),
            (done, None) => format!("{}: {done} in {seconds} s", bar.message()),
            (done, Some(all)) => format!("{}: {done} of {all} in {seconds} s", bar.message()),
        };
        // Whoever closed standard error does not want to know.
        if writeln!(to, "{line}").is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands on each line that is written.
    struct Lines(Sender<String>);

    impl Write for Lines {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let line = String::from_utf8_lossy(text).into_owned();
            self.0.send(line).map_err(io::Error::other)?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_a_terminal_long_work_is_told_of_in_plain_lines_until_it_ends() {
        let bar = ProgressBar::hidden();
        bar.set_message("deleting cache items");
        let ((end, ended), (write, written)) = (channel(), channel());
        let shown = bar.clone();
        let teller = std::thread::spawn(move || {
            tell(&shown, Duration::from_millis(1), &ended, Lines(write));
        });
        let patience = Duration::from_secs(30);
        let begun = written.recv_timeout(patience).unwrap();
        assert!(begun.starts_with("deleting cache items: "), "{begun}");
        bar.set_position(2_500);
        let mut text = String::new();
        while !text.contains("deleting cache items: 2500 in ") {
            text.push_str(&written.recv_timeout(patience).unwrap());
        }
        bar.set_length(10_000);
        while !text.contains("deleting cache items: 2500 of 10000 in ") {
            text.push_str(&written.recv_timeout(patience).unwrap());
        }
        drop(end);
        teller.join().unwrap();
    }
}
