//! Retry delays.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Exponential back-off: the delay doubles up to one minute, with jitter so that the runs of a cluster do not retry at
/// the same moment.
#[derive(Debug, Default)]
pub struct BackOff {
    tries: u32,
}

const FIRST_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

impl BackOff {
    /// The delay after one more failure, at least the `asked` delay of the server, up to ten minutes.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = FIRST_DELAY
            .saturating_mul(1 << self.tries.min(16))
            .min(MAX_DELAY);
        self.tries += 1;
        let jittered = doubled.mul_f64(0.5 + 0.5 * random_fraction());
        match asked {
            Some(asked) => asked.min(MAX_RETRY_AFTER).max(jittered),
            None => jittered,
        }
    }

    pub fn tries(&self) -> u32 {
        self.tries
    }

    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// From 0 to 1, from the clock's nanoseconds.
fn random_fraction() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    f64::from(now.unwrap_or_default().subsec_nanos() % 1_000_003) / 1_000_003.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_minute_and_honour_the_server() {
        let mut back_off = BackOff::default();
        for longest in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let wait = back_off.next(None).as_secs_f64();
            assert!(
                (longest / 2.0..=longest).contains(&wait),
                "{wait} of {longest}"
            );
        }
        let asked = Duration::from_secs(90);
        assert_eq!(back_off.next(Some(asked)), asked);
        assert_eq!(
            back_off.next(Some(Duration::from_secs(86_400))),
            MAX_RETRY_AFTER
        );
        back_off.reset();
        assert!(back_off.next(Some(Duration::ZERO)) <= FIRST_DELAY);
    }
}
