//! An observer that records messages and warnings.

use std::sync::{Arc, Mutex};

use ctseg_base::progress::{Observer, Silent, Task};

/// Records messages and warnings.
#[derive(Default)]
pub struct CapturedLog {
    pub infos: Mutex<Vec<String>>,
    pub warnings: Mutex<Vec<String>>,
}

impl CapturedLog {
    pub fn new() -> (Arc<Self>, Arc<dyn Observer>) {
        let log = Arc::new(Self::default());
        (Arc::clone(&log), log)
    }

    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap().clone()
    }

    pub fn infos(&self) -> Vec<String> {
        self.infos.lock().unwrap().clone()
    }
}

impl Observer for CapturedLog {
    fn info(&self, line: &str) {
        self.infos.lock().unwrap().push(line.to_owned());
    }

    fn warn(&self, line: &str) {
        self.warnings.lock().unwrap().push(line.to_owned());
    }

    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(Silent)
    }
}
