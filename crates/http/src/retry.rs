//! How long to wait before trying again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long to wait before each further try: doubled each time up to a minute, and spread so that the runs of a
/// cluster do not come back all at once.
#[derive(Debug, Default)]
pub struct BackOff {
    tries: u32,
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A server that asks for more is asked again after this.
const LONGEST_ASKED_FOR: Duration = Duration::from_secs(600);

impl BackOff {
    /// After one more failure; `asked` is what the server asked for, and the least that is waited then.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.tries.min(16)).min(LONGEST);
        self.tries += 1;
        let spread = doubled.mul_f64(0.5 + 0.5 * by_chance());
        match asked {
            Some(asked) => asked.min(LONGEST_ASKED_FOR).max(spread),
            None => spread,
        }
    }

    pub fn tries(&self) -> u32 {
        self.tries
    }

    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// From 0 to 1, as good as unknown to other processes: the clock's nanoseconds.
fn by_chance() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    f64::from(now.unwrap_or_default().subsec_nanos() % 1_000_003) / 1_000_003.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute_and_heed_the_server() {
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
            LONGEST_ASKED_FOR
        );
        back_off.reset();
        assert!(back_off.next(Some(Duration::ZERO)) <= FIRST);
    }
}
