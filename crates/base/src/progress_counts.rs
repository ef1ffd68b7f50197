//! Counters of running tasks, for observers that report numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub struct TaskCount {
    pub name: String,
    /// Number of steps; 0 if unknown.
    pub total: u64,
    pub unit: &'static str,
    started: Instant,
    done: AtomicU64,
    note: Mutex<String>,
}

impl TaskCount {
    /// A task that starts now.
    pub fn new(name: &str, total: u64, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            total,
            unit,
            started: Instant::now(),
            done: AtomicU64::new(0),
            note: Mutex::default(),
        }
    }

    /// Adds `steps` done and returns the sum.
    pub fn advance(&self, steps: u64) -> u64 {
        self.done.fetch_add(steps, Ordering::Relaxed) + steps
    }

    pub fn set_note(&self, text: &str) {
        text.clone_into(&mut self.lock_note());
    }

    pub fn note(&self) -> String {
        self.lock_note().clone()
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Steps per second since the start.
    pub fn per_second(&self) -> f64 {
        self.done() as f64 / self.seconds().max(1e-3)
    }

    /// Estimated seconds left; `None` if unknown.
    pub fn seconds_left(&self) -> Option<f64> {
        let rate = self.per_second();
        (self.total > self.done() && rate > 0.0).then(|| (self.total - self.done()) as f64 / rate)
    }

    fn lock_note(&self) -> MutexGuard<'_, String> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running tasks, in order of their start.
#[derive(Default)]
pub struct TaskList(Mutex<Vec<Arc<TaskCount>>>);

impl TaskList {
    pub fn begin(&self, name: &str, total: u64, unit: &'static str) -> Arc<TaskCount> {
        let task = Arc::new(TaskCount::new(name, total, unit));
        self.all().push(Arc::clone(&task));
        task
    }

    pub fn end(&self, task: &Arc<TaskCount>) {
        self.all().retain(|own| !Arc::ptr_eq(own, task));
    }

    /// A copy of the list.
    pub fn now(&self) -> Vec<Arc<TaskCount>> {
        self.all().clone()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<TaskCount>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
