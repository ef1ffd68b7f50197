//! What can go wrong with a server, sorted by what is to be done about it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Error;

/// Why something was not done.
#[derive(Debug)]
pub enum Fault {
    /// Nothing was heard, or that it cannot be done now: it is tried again. An unanswered request may have been
    /// carried out. `wait` is how long the server asked for.
    Away { why: String, wait: Option<Duration> },
    /// Trying again is of no use before a person has changed something: no access, or no MLflow server.
    Closed(String),
    /// The run was deleted on the server.
    Gone(String),
    /// This one thing is not wanted; others may be.
    Refused(Refusal),
    /// Not the server's: a file here.
    Local(Error),
}

/// What a server said to something that it does not want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// MLflow's own, such as `RESOURCE_DOES_NOT_EXIST`; empty where there was none.
    pub code: String,
    /// One line.
    pub message: String,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Away { why, .. } | Self::Closed(why) | Self::Gone(why) => f.write_str(why),
            Self::Refused(refusal) => f.write_str(&refusal.message),
            Self::Local(error) => error.fmt(f),
        }
    }
}

impl Refusal {
    pub fn is_missing(&self) -> bool {
        self.code == "RESOURCE_DOES_NOT_EXIST"
    }

    pub fn exists_already(&self) -> bool {
        self.code == "RESOURCE_ALREADY_EXISTS"
    }

    /// Whether the server does not know the request at all.
    pub fn is_unknown_request(&self) -> bool {
        matches!(self.status, 404 | 405 | 501) && !self.is_missing()
    }
}

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
