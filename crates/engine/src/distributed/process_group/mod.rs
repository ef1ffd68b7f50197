//! The processes that train one network together. Each sees its share of every batch; sums over all processes give
//! the loss and gradient of the whole batch. The sums are computed by a [`Collective`]: MPI on CPUs (`mpi`), NCCL on
//! NVIDIA GPUs (`libtorch`).

pub(crate) mod collective;
mod sharing;

pub use collective::{Collective, GpuBackend, GpuValues};

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::watchdog::Watchdog;
use ctseg_base::process::id::ProcessId;
use ctseg_base::{Error, Result};

/// Bytes reserved for a process id.
const PROCESS_ID_BYTES: usize = 64;

/// The processes that train together, as seen by one of them; may be a single process.
pub struct ProcessGroup {
    rank: usize,
    size: usize,
    peers: Option<Peers>,
}

struct Peers {
    collective: Arc<dyn Collective>,
    watchdog: Watchdog,
    finished: AtomicBool,
}

impl Default for ProcessGroup {
    fn default() -> Self {
        Self::single()
    }
}

impl fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

impl PartialEq for ProcessGroup {
    fn eq(&self, other: &Self) -> bool {
        (self.rank, self.size) == (other.rank, other.size)
    }
}

impl ProcessGroup {
    /// A group of this process alone.
    pub const fn single() -> Self {
        Self {
            rank: 0,
            size: 1,
            peers: None,
        }
    }

    /// Rank `rank` of `size`, connected by `collective`. From now on this process stops when another one ends, after
    /// calling `report`.
    ///
    /// # Errors
    /// Those of the collective, an invalid rank, or a watchdog thread that cannot be started.
    pub fn new(
        (rank, size): (usize, usize),
        collective: Arc<dyn Collective>,
        report: impl Fn(&str) + Send + 'static,
    ) -> Result<Self> {
        if rank >= size {
            return Err(Error::usage(format!(
                "rank {rank} of {size}: ranks start at 0"
            )));
        }
        let process_ids = process_ids(rank, size, collective.as_ref())?;
        let watchdog =
            Watchdog::start(rank, process_ids, Arc::clone(&collective), Box::new(report))?;
        Ok(Self {
            rank,
            size,
            peers: Some(Peers {
                collective,
                watchdog,
                finished: AtomicBool::new(false),
            }),
        })
    }

    /// Rank of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn is_single(&self) -> bool {
        self.size == 1
    }

    /// Whether this process writes files and reports to the user.
    pub fn is_rank_zero(&self) -> bool {
        self.rank == 0
    }

    /// `seed` with this rank added, so that each rank draws its own random numbers.
    pub fn seed_of_rank(&self, seed: u64) -> u64 {
        seed.wrapping_add((self.rank as u64) << 56)
    }

    /// This rank's range of `count` items; the ranges of all ranks cover them without overlap.
    pub fn shard(&self, count: usize) -> Range<usize> {
        count * self.rank / self.size..count * (self.rank + 1) / self.size
    }

    /// See [`Collective::all_reduce_f32`].
    pub fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        match &self.peers {
            Some(peers) => peers.collective.all_reduce_f32(values),
            None => Ok(()),
        }
    }

    /// See [`Collective::all_reduce_f64`].
    pub fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        match &self.peers {
            Some(peers) => peers.collective.all_reduce_f64(values),
            None => Ok(()),
        }
    }

    /// See [`Collective::all_reduce_gpu`].
    pub fn all_reduce_gpu(&self, values: GpuValues) -> Option<Result<()>> {
        self.peers.as_ref()?.collective.all_reduce_gpu(values)
    }

    /// Which flags are set in at least one process.
    pub fn any<const N: usize>(&self, flags: [bool; N]) -> Result<[bool; N]> {
        let mut sums = flags.map(|flag| f64::from(u8::from(flag)));
        self.all_reduce_f64(&mut sums)?;
        Ok(sums.map(|sum| sum > 0.0))
    }

    /// Returns `own` if it is `Ok` in all processes; otherwise every process returns an error, and none waits in
    /// vain.
    ///
    /// # Errors
    /// Its own error, or that another process failed or was asked to stop.
    pub fn all_ok<T>(&self, own: Result<T>) -> Result<T> {
        self.all_agree(own, [false, false])
    }

    /// Same for an iterator's next item: all processes must have one, or none.
    ///
    /// # Errors
    /// Also if only some processes have an item.
    pub fn all_some_or_none<T>(&self, own: Result<Option<T>>) -> Result<Option<T>> {
        let has = own.as_ref().is_ok_and(Option::is_some);
        let has_none = own.as_ref().is_ok_and(Option::is_none);
        self.all_agree(own, [has, has_none])
    }

    /// [`ProcessGroup::all_ok`], where `one` and `other` exclude each other across processes.
    fn all_agree<T>(&self, own: Result<T>, [one, other]: [bool; 2]) -> Result<T> {
        if self.is_single() {
            return own;
        }
        let interrupted = matches!(own, Err(Error::Interrupted(_)));
        let failed = own.is_err() && !interrupted;
        let [failed, stopped, one, other] = self.any([failed, interrupted, one, other])?;
        let diverged = one && other;
        if failed || stopped || diverged {
            self.mark_finished();
        }
        match own {
            Err(error) => Err(error),
            Ok(_) if failed => Err(Error::invalid(format!(
                "another of the {} ranks failed; see its own error message",
                self.size
            ))),
            Ok(_) if stopped => Err(Error::Interrupted(
                "another rank was asked to stop".to_owned(),
            )),
            Ok(_) if diverged => Err(Error::invalid(format!(
                "the {} ranks found different amounts of data; all ranks must read the same files with the same ctseg version",
                self.size
            ))),
            Ok(value) => Ok(value),
        }
    }

    /// The bytes of rank 0, in all processes.
    pub fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let Some(peers) = &self.peers else {
            return Ok(bytes);
        };
        let mut length = [if self.is_rank_zero() {
            bytes.len() as f64
        } else {
            0.0
        }];
        peers.collective.all_reduce_f64(&mut length)?;
        let mut bytes = if self.is_rank_zero() {
            bytes
        } else {
            Vec::new()
        };
        bytes.resize(length[0] as usize, 0);
        peers.collective.broadcast(&mut bytes)?;
        Ok(bytes)
    }

    /// The values of all processes, concatenated by rank.
    pub fn all_gather(&self, own: &[f32]) -> Result<Gathered> {
        let mut counts = vec![0.0; self.size];
        counts[self.rank] = own.len() as f64;
        self.all_reduce_f64(&mut counts)?;
        let before = |rank: usize| counts[..rank].iter().sum::<f64>() as usize;
        let own_range = before(self.rank)..before(self.rank) + own.len();
        let mut values = vec![0.0; before(self.size)];
        values[own_range.clone()].copy_from_slice(own);
        self.all_reduce_f32(&mut values)?;
        Ok(Gathered { values, own_range })
    }

    /// Sets the advice that the user gets if another process is lost.
    pub fn set_recovery_hint(&self, hint: &str) {
        if let Some(peers) = &self.peers {
            peers.watchdog.set_recovery_hint(hint);
        }
    }

    /// Marks the orderly end: every process will call [`ProcessGroup::shutdown`] next.
    pub fn mark_finished(&self) {
        if let Some(peers) = &self.peers {
            peers.finished.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for all other processes and leaves the group. Without an orderly end it does not wait; a second call
    /// does nothing.
    pub fn shutdown(&self) -> Result<()> {
        match &self.peers {
            Some(peers) if peers.finished.swap(false, Ordering::Relaxed) => {
                let ended = peers.collective.shutdown();
                peers.watchdog.stop();
                ended
            }
            _ => Ok(()),
        }
    }

    /// Fails if processes were started with different `settings`, such as one fold each.
    pub fn check_same_settings(&self, settings: &str) -> Result<()> {
        let first = self.broadcast(settings.as_bytes().to_vec())?;
        let own = match first == settings.as_bytes() {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "rank {} of {} was started with different arguments, data or precision than rank 0; use the same for all ranks, or --alone to train each independently",
                self.rank, self.size
            ))),
        };
        self.all_ok(own)
    }
}

/// See [`ProcessGroup::all_gather`].
pub struct Gathered {
    pub values: Vec<f32>,
    /// Range of this process's own values.
    pub own_range: Range<usize>,
}

/// The ids of all processes.
fn process_ids(
    rank: usize,
    size: usize,
    collective: &dyn Collective,
) -> Result<Vec<Option<ProcessId>>> {
    let own = ProcessId::current().to_string();
    let mut letters = vec![0.0; size * PROCESS_ID_BYTES];
    let place = &mut letters[rank * PROCESS_ID_BYTES..];
    for (to, letter) in place.iter_mut().zip(own.bytes()).take(PROCESS_ID_BYTES) {
        *to = f64::from(letter);
    }
    collective.all_reduce_f64(&mut letters)?;
    let name = |letters: &[f64]| {
        let letters = letters.iter().map(|letter| *letter as u8);
        let letters: Vec<u8> = letters.take_while(|letter| *letter != 0).collect();
        ProcessId::parse(&String::from_utf8(letters).ok()?)
    };
    Ok(letters.chunks(PROCESS_ID_BYTES).map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::threads::in_process_group;

    #[test]
    fn shares_are_all_of_it() {
        for (count, size) in [(12, 4), (7, 3), (2, 3), (0, 2)] {
            let mut next = 0;
            for rank in 0..size {
                let group = ProcessGroup {
                    rank,
                    size,
                    peers: None,
                };
                let share = group.shard(count);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, count);
        }
        assert_eq!(ProcessGroup::single().shard(5), 0..5);
    }

    #[test]
    fn what_one_knows_all_know() {
        in_process_group(3, |group| {
            let bytes = vec![group.rank() as u8; if group.is_rank_zero() { 5 } else { 9 }];
            assert_eq!(group.broadcast(bytes).unwrap(), [0; 5]);
            let own = vec![group.rank() as f32; group.rank() + 1];
            let gathered = group.all_gather(&own).unwrap();
            assert_eq!(gathered.values, [0.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
            assert_eq!(gathered.values[gathered.own_range], own);
            let flags = group.any([group.rank() == 2, false, true]).unwrap();
            assert_eq!(flags, [true, false, true]);
        });
    }

    #[test]
    fn one_that_fails_lets_nobody_wait() {
        in_process_group(2, |group| {
            assert_eq!(group.all_ok(Ok(4)).unwrap(), 4);
            let own = match group.rank() {
                1 => Err(Error::invalid("a case cannot be read")),
                _ => Ok(()),
            };
            let said = group.all_ok(own).unwrap_err();
            let expected = ["another of the 2", "a case cannot be read"][group.rank()];
            assert!(said.to_string().contains(expected), "{said}");
        });
        in_process_group(2, |group| {
            let own = match group.rank() {
                0 => Err(Error::Interrupted("saved".to_owned())),
                _ => Ok(()),
            };
            let said = group.all_ok(own).unwrap_err();
            assert!(matches!(said, Error::Interrupted(_)), "{said}");
        });
    }

    #[test]
    fn all_come_to_an_end_together() {
        in_process_group(2, |group| {
            assert_eq!(group.all_some_or_none(Ok(Some(3))).unwrap(), Some(3));
            assert_eq!(group.all_some_or_none(Ok(None::<u8>)).unwrap(), None);
            let own = (group.rank() == 1).then_some(5);
            let said = group.all_some_or_none(Ok(own)).unwrap_err().to_string();
            assert!(said.contains("different amounts of data"), "{said}");
        });
    }

    #[test]
    fn settings_must_be_the_same() {
        in_process_group(2, |group| {
            group.check_same_settings("fold 0").unwrap();
            let said = group
                .check_same_settings(&format!("fold {}", group.rank()))
                .unwrap_err();
            let expected = ["another of the 2", "--alone"][group.rank()];
            assert!(said.to_string().contains(expected), "{said}");
        });
    }

    #[test]
    fn one_alone_needs_nobody() {
        let group = ProcessGroup::single();
        let mut values = [1.5f32, 2.0];
        group.all_reduce_f32(&mut values).unwrap();
        assert_eq!(values, [1.5, 2.0]);
        assert_eq!(group.broadcast(vec![1, 2]).unwrap(), [1, 2]);
        assert_eq!(group.all_gather(&values).unwrap().values, values);
        assert!(group.is_rank_zero() && group.is_single());
        group.shutdown().unwrap();
    }
}
