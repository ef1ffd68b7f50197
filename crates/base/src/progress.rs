//! What long work tells the outside while it runs. Progress bars, log files and tests each implement it.

use crate::text::printable::one_line;

/// Receives what happens. All methods may be called from several threads.
pub trait Observer: Send + Sync {
    /// A fact worth a line.
    fn say(&self, line: &str);

    /// Something the user should know about although the work goes on.
    fn warn(&self, line: &str);

    /// A line for logs, of what a terminal shows by its bars alone.
    fn log(&self, _line: &str) {}

    /// A piece of work of `total` steps begins; dropping the handle ends it.
    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task>;

    /// How many cases are in which state; told anew whenever one has changed.
    fn cases(&self, _counts: &CaseCounts) {}

    /// How things stand, in lines: on a terminal they stay at the bottom until other lines take their place or, with
    /// no text, until they are no longer wanted. Elsewhere nothing is shown.
    fn board(&self, _text: &str) {}
}

/// How many cases of a batch are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaseCounts {
    pub done: u64,
    pub failed: u64,
    /// There was nothing to do: their results were there.
    pub skipped: u64,
    pub pending: u64,
}

/// A piece of work that is under way.
pub trait Task: Send + Sync {
    /// `steps` more are done.
    fn advance(&self, steps: u64);

    /// A short text beside the bar, such as the current loss.
    fn note(&self, text: &str);
}

/// Hears nothing; for tests and library users.
pub struct Silent;

impl Observer for Silent {
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(Silent)
    }
}

impl Task for Silent {
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
}

/// Passes everything on and appends every line, with its time, to a log file.
pub struct Logged<'a> {
    inner: &'a dyn Observer,
    log: std::sync::Mutex<std::fs::File>,
}

impl<'a> Logged<'a> {
    pub fn new(inner: &'a dyn Observer, log: std::fs::File) -> Self {
        Self {
            inner,
            log: std::sync::Mutex::new(log),
        }
    }

    fn write(&self, kind: &str, line: &str) {
        use std::io::Write;
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        if let Ok(mut log) = self.log.lock() {
            // A full disk must not end a training over its log.
            let _ = log.write_all(format!("{time} {kind} {}\n", one_line(line)).as_bytes());
        }
    }
}

impl Observer for Logged<'_> {
    fn say(&self, line: &str) {
        self.write("info", line);
        self.inner.say(line);
    }

    fn warn(&self, line: &str) {
        self.write("warning", line);
        self.inner.warn(line);
    }

    fn log(&self, line: &str) {
        self.write("info", line);
        self.inner.log(line);
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        self.inner.task(name, total, unit)
    }

    fn board(&self, text: &str) {
        self.inner.board(text);
    }

    fn cases(&self, counts: &CaseCounts) {
        self.inner.cases(counts);
    }
}
