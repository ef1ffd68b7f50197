//! Which case comes next: that of the list, or one that no other process has.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::claims::{Claims, Taking};
use ctseg_base::{Error, Result};

/// How often somebody who waits looks whether to stop.
const STEP: Duration = Duration::from_millis(50);

/// Hands out each case of a batch once.
pub(crate) struct Supply<'a> {
    claims: Option<&'a Claims>,
    /// Cases that are still of interest, in their order.
    left: Mutex<Vec<usize>>,
}

/// A case to work on.
pub(super) struct Handed {
    pub(super) index: usize,
    /// Why it cannot be worked on.
    pub(super) problem: Option<Error>,
    /// An earlier process has marked it as done; whether it still is, its files decide. It is nobody's yet.
    pub(super) remembered: bool,
}

impl Handed {
    fn new(index: usize) -> Self {
        Self {
            index,
            problem: None,
            remembered: false,
        }
    }
}

enum Found {
    Case(Handed),
    /// Other processes hold all that is left.
    Waiting,
    Nothing,
}

impl<'a> Supply<'a> {
    /// All of `count` cases.
    pub(super) fn of_list(count: usize) -> Self {
        Self {
            claims: None,
            left: Mutex::new((0..count).collect()),
        }
    }

    /// Those of `count` cases that no other process takes.
    pub(super) fn of_claims(claims: &'a Claims, count: usize) -> Self {
        Self {
            claims: Some(claims),
            ..Self::of_list(count)
        }
    }

    /// The next case; none when there are no more, or when `stopped`. Waits for cases that other processes hold
    /// until those are done with them: should one of them die, its cases are taken over.
    pub(super) fn next(&self, stopped: &dyn Fn() -> bool) -> Option<Handed> {
        let pause = self.claims.map_or(STEP, Claims::pause);
        while !stopped() {
            match self.found(stopped) {
                Found::Case(handed) => return Some(handed),
                Found::Nothing => return None,
                Found::Waiting => {
                    let mut waited = Duration::ZERO;
                    while waited < pause && !stopped() {
                        std::thread::sleep(STEP);
                        waited += STEP;
                    }
                }
            }
        }
        None
    }

    fn found(&self, stopped: &dyn Fn() -> bool) -> Found {
        let mut left = self.left();
        let Some(claims) = self.claims else {
            if left.is_empty() {
                return Found::Nothing;
            }
            return Found::Case(Handed::new(left.remove(0)));
        };
        let mut position = 0;
        while position < left.len() && !stopped() {
            let index = left[position];
            let mut handed = Handed::new(index);
            match claims.take(index) {
                Ok(Taking::Busy) => {
                    position += 1;
                    continue;
                }
                Ok(Taking::Settled) => {
                    left.remove(position);
                    continue;
                }
                Ok(Taking::Ours) => {}
                Ok(Taking::Remembered) => handed.remembered = true,
                Err(error) => handed.problem = Some(error),
            }
            left.remove(position);
            return Found::Case(handed);
        }
        match left.is_empty() {
            true => Found::Nothing,
            false => Found::Waiting,
        }
    }

    /// Takes a case that was handed out as remembered and is to be made again; false where another process was faster,
    /// and it is waited for as any other.
    pub(super) fn take_anew(&self, index: usize) -> Result<bool> {
        let Some(claims) = self.claims else {
            return Ok(true);
        };
        let is_ours = claims.take_anew(index)?;
        if !is_ours {
            self.left().push(index);
        }
        Ok(is_ours)
    }

    /// Whether a case that was handed out is still this process's.
    pub(super) fn is_ours(&self, index: usize) -> bool {
        self.claims.is_none_or(|claims| claims.holds(index))
    }

    fn left(&self) -> MutexGuard<'_, Vec<usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
