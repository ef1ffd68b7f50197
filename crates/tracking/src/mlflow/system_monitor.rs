//! Samples system metrics during a run.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::system_metrics::Sampler;
use ctseg_base::limits::spawn::spawn;

/// As in MLflow's own client.
const INTERVAL: Duration = Duration::from_secs(10);

/// Short runs get a sample too.
const FIRST_SAMPLE: Duration = Duration::from_secs(1);

/// Samples until it is dropped.
pub struct SystemMonitor {
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl SystemMonitor {
    /// Starts a thread that calls `record` with the values by name. If no thread can be started, nothing is sampled.
    pub fn start(record: impl Fn(Vec<(String, f64)>) + Send + 'static) -> Self {
        let ended: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let seen = Arc::clone(&ended);
        let work = move || {
            let mut sampler = Sampler::new();
            let mut wait = FIRST_SAMPLE;
            while !has_ended(&seen, wait) {
                record(sampler.sample());
                wait = INTERVAL;
            }
        };
        // System metrics are optional.
        let _ = spawn("machine", work);
        Self { ended }
    }
}

impl Drop for SystemMonitor {
    fn drop(&mut self) {
        let (ended, changed) = &*self.ended;
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

/// Waits up to `wait`; returns whether sampling has ended.
fn has_ended((ended, changed): &(Mutex<bool>, Condvar), wait: Duration) -> bool {
    let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = changed.wait_timeout_while(ended, wait, |ended| !*ended);
    *waited.unwrap_or_else(PoisonError::into_inner).0
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_machine_is_sampled_until_the_monitor_is_dropped() {
        let (to, samples) = channel();
        let monitor = SystemMonitor::start(move |values| drop(to.send(values)));
        let values = samples.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(values.iter().any(|(name, _)| name.starts_with("system/")));
        drop(monitor);
        // The thread ends and drops its sender.
        while samples.recv_timeout(Duration::from_secs(60)).is_ok() {}
        let none = samples.recv_timeout(Duration::from_millis(1));
        assert_eq!(none, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
