//! Timeouts for storage and drivers that hang.

use std::sync::mpsc::channel;
use std::time::Duration;

use ctseg_base::limits::spawn::spawn;

/// The result of `work`, run on its own thread. `None` if it takes longer than `limit` (the thread is then abandoned)
/// or no thread can be started.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (to, answer) = channel();
    spawn("doctor", move || to.send(work())).ok()?;
    answer.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hanging_work_times_out() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (_keep, never) = channel::<()>();
        let started = std::time::Instant::now();
        let hung = within(Duration::from_millis(50), move || never.recv().is_ok());
        assert_eq!(hung, None);
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
