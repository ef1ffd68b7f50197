//! The queue of cases: from the list, or those that no other process has claimed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::claims::{ClaimOutcome, Claims};
use ctseg_base::{Error, Result};

/// How often a waiting thread checks whether to stop.
const STEP: Duration = Duration::from_millis(50);

/// Hands out each case of a batch once.
pub(crate) struct CaseQueue<'a> {
    claims: Option<&'a Claims>,
    /// Remaining cases, in order.
    remaining: Mutex<Vec<usize>>,
}

pub(super) struct QueuedCase {
    pub(super) index: usize,
    /// The error of claiming it, if any.
    pub(super) problem: Option<Error>,
    /// An earlier process has marked it as done: its files decide whether it still is. It is not claimed yet.
    pub(super) marked_done: bool,
}

impl QueuedCase {
    fn new(index: usize) -> Self {
        Self {
            index,
            problem: None,
            marked_done: false,
        }
    }
}

enum Found {
    Case(QueuedCase),
    /// Other processes hold all remaining cases.
    Waiting,
    Nothing,
}

impl<'a> CaseQueue<'a> {
    pub(super) fn of_list(count: usize) -> Self {
        Self {
            claims: None,
            remaining: Mutex::new((0..count).collect()),
        }
    }

    /// A queue of those of `count` cases that no other process claims.
    pub(super) fn of_claims(claims: &'a Claims, count: usize) -> Self {
        Self {
            claims: Some(claims),
            ..Self::of_list(count)
        }
    }

    /// The next case; `None` when there are no more, or when `stopped`. Waits for cases that other processes hold,
    /// and takes over those of a process that died.
    pub(super) fn next(&self, stopped: &dyn Fn() -> bool) -> Option<QueuedCase> {
        let pause = self.claims.map_or(STEP, Claims::pause);
        while !stopped() {
            match self.found(stopped) {
                Found::Case(queued) => return Some(queued),
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
        let mut remaining = self.remaining();
        let Some(claims) = self.claims else {
            if remaining.is_empty() {
                return Found::Nothing;
            }
            return Found::Case(QueuedCase::new(remaining.remove(0)));
        };
        let mut position = 0;
        while position < remaining.len() && !stopped() {
            let index = remaining[position];
            let mut queued = QueuedCase::new(index);
            match claims.take(index) {
                Ok(ClaimOutcome::Busy) => {
                    position += 1;
                    continue;
                }
                Ok(ClaimOutcome::Settled) => {
                    remaining.remove(position);
                    continue;
                }
                Ok(ClaimOutcome::Ours) => {}
                Ok(ClaimOutcome::MarkedDone) => queued.marked_done = true,
                Err(error) => queued.problem = Some(error),
            }
            remaining.remove(position);
            return Found::Case(queued);
        }
        match remaining.is_empty() {
            true => Found::Nothing,
            false => Found::Waiting,
        }
    }

    /// Claims a case that was marked as done and is to be made again; false if another process was faster: the case
    /// goes back to the queue.
    pub(super) fn take_again(&self, index: usize) -> Result<bool> {
        let Some(claims) = self.claims else {
            return Ok(true);
        };
        let is_ours = claims.take_again(index)?;
        if !is_ours {
            self.remaining().push(index);
        }
        Ok(is_ours)
    }

    /// Whether this process still holds a case from the queue.
    pub(super) fn is_ours(&self, index: usize) -> bool {
        self.claims.is_none_or(|claims| claims.holds(index))
    }

    fn remaining(&self) -> MutexGuard<'_, Vec<usize>> {
        self.remaining
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
