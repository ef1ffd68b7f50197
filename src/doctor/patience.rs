//! Storage and drivers in trouble may never answer; a doctor must.

use std::sync::mpsc::channel;
use std::time::Duration;

use ctseg_base::limits::spawn::spawn;

/// What `work` gives, on a thread of its own; none where it takes longer than `limit`, and is left to itself, and where
/// there is no thread for it.
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
    fn what_never_answers_is_not_waited_for() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (_keep, never) = channel::<()>();
        let begun = std::time::Instant::now();
        let hung = within(Duration::from_millis(50), move || never.recv().is_ok());
        assert_eq!(hung, None);
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
