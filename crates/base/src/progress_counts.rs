//! Pieces of work under way, counted for observers that keep figures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One piece of work.
pub struct TaskCount {
    pub name: String,
    /// Steps, 0 where that is not known.
    pub total: u64,
    pub unit: &'static str,
    begun: Instant,
    done: AtomicU64,
    note: Mutex<String>,
}

impl TaskCount {
    /// One that begins now.
    pub fn new(name: &str, total: u64, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            total,
            unit,
            begun: Instant::now(),
            done: AtomicU64::new(0),
            note: Mutex::default(),
        }
    }

    /// `steps` more are done; how many are in all.
    pub fn advance(&self, steps: u64) -> u64 {
        self.done.fetch_add(steps, Ordering::Relaxed) + steps
    }

    pub fn set_note(&self, text: &str) {
        text.clone_into(&mut self.noted());
    }

    pub fn note(&self) -> String {
        self.noted().clone()
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Since it began.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Steps per second since it began.
    pub fn per_second(&self) -> f64 {
        self.done() as f64 / self.seconds().max(1e-3)
    }

    /// Seconds that the rest takes at this rate; none where that is not known.
    pub fn seconds_left(&self) -> Option<f64> {
        let rate = self.per_second();
        (self.total > self.done() && rate > 0.0).then(|| (self.total - self.done()) as f64 / rate)
    }

    fn noted(&self) -> MutexGuard<'_, String> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those under way, the one that began last at the end.
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
