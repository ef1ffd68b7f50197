//! Tells the run that goes on how busy the machine is.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::system_metrics::Sampler;
use ctseg_base::limits::spawn::spawn;

/// As often as MLflow's own client.
const EVERY: Duration = Duration::from_secs(10);

/// Runs that are over sooner have a sample too.
const FIRST: Duration = Duration::from_secs(1);

/// Samples until it is dropped.
pub struct Watch {
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Watch {
    /// `tell` gets the values by name, on a thread of its own. Without threads nothing is sampled.
    pub fn begin(tell: impl Fn(Vec<(String, f64)>) + Send + 'static) -> Self {
        let ended: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let seen = Arc::clone(&ended);
        let work = move || {
            let mut sampler = Sampler::new();
            let mut wait = FIRST;
            while !has_ended(&seen, wait) {
                tell(sampler.sample());
                wait = EVERY;
            }
        };
        // A run without samples is a run all the same.
        let _ = spawn("machine", work);
        Self { ended }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (ended, changed) = &*self.ended;
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

/// Waits; whether the end came before.
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
    fn a_run_is_told_of_the_machine_until_it_ends() {
        let (to, told) = channel();
        let watch = Watch::begin(move |values| drop(to.send(values)));
        let values = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(values.iter().any(|(name, _)| name.starts_with("system/")));
        drop(watch);
        // The thread ends, and with it what it tells through.
        while told.recv_timeout(Duration::from_secs(60)).is_ok() {}
        let none = told.recv_timeout(Duration::from_millis(1));
        assert_eq!(none, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
