//! Processes that train one network together. Each sees its share of every batch; sums over all of them make the
//! loss and the gradient those of the whole batch. What they are sums by is a [`Collective`]: MPI on processors
//! (`mpi`), NCCL on NVIDIA GPUs (`libtorch`).

pub(crate) mod collective;

pub use collective::{Collective, GpuBackend, GpuValues};

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::watchdog::Watch;
use ctseg_base::process::id::ProcessId;
use ctseg_base::{Error, Result};

/// Room for the name of a process.
const NAME_BYTES: usize = 64;

/// The processes that train together, as one of them sees them; one alone is a team too.
pub struct Team {
    rank: usize,
    size: usize,
    others: Option<Others>,
}

struct Others {
    collective: Arc<dyn Collective>,
    watch: Watch,
    parted: AtomicBool,
}

impl Default for Team {
    fn default() -> Self {
        Self::alone()
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {}", self.rank, self.size)
    }
}

impl PartialEq for Team {
    fn eq(&self, other: &Self) -> bool {
        (self.rank, self.size) == (other.rank, other.size)
    }
}

impl Team {
    /// A process that trains by itself.
    pub const fn alone() -> Self {
        Self {
            rank: 0,
            size: 1,
            others: None,
        }
    }

    /// Process `rank` of `size` that meet by `collective`. From here on it ends when another one does, after
    /// telling so by `tell`.
    ///
    /// # Errors
    /// Those of the collective, and of processes that were begun wrongly; no thread can be started to watch the others.
    pub fn of(
        (rank, size): (usize, usize),
        collective: Arc<dyn Collective>,
        tell: impl Fn(&str) + Send + 'static,
    ) -> Result<Self> {
        if rank >= size {
            return Err(Error::usage(format!(
                "process {rank} of {size}: processes count from 0"
            )));
        }
        let names = names(rank, size, collective.as_ref())?;
        let watch = Watch::begin(rank, names, Arc::clone(&collective), Box::new(tell))?;
        Ok(Self {
            rank,
            size,
            others: Some(Others {
                collective,
                watch,
                parted: AtomicBool::new(false),
            }),
        })
    }

    /// Which process this is, from 0 on.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn is_alone(&self) -> bool {
        self.size == 1
    }

    /// Whether this is the one that writes files and tells the user.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// This process's share of `count` things in a row; all shares together are all of them.
    pub fn share(&self, count: usize) -> Range<usize> {
        count * self.rank / self.size..count * (self.rank + 1) / self.size
    }

    /// See [`Collective::sum_f32`].
    pub fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        match &self.others {
            Some(others) => others.collective.sum_f32(values),
            None => Ok(()),
        }
    }

    /// See [`Collective::sum_f64`].
    pub fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        match &self.others {
            Some(others) => others.collective.sum_f64(values),
            None => Ok(()),
        }
    }

    /// See [`Collective::sum_on_gpu`].
    pub fn sum_on_gpu(&self, values: GpuValues) -> Option<Result<()>> {
        self.others.as_ref()?.collective.sum_on_gpu(values)
    }

    /// The sums of `flags` over all processes: which of them at least one has set.
    pub fn any<const N: usize>(&self, flags: [bool; N]) -> Result<[bool; N]> {
        let mut sums = flags.map(|flag| f64::from(u8::from(flag)));
        self.sum_f64(&mut sums)?;
        Ok(sums.map(|sum| sum > 0.0))
    }

    /// `own`, unless it went wrong in any process: then all of them hear of it, and none waits for it in vain.
    ///
    /// # Errors
    /// The own one; else that another process failed, or was asked to stop.
    pub fn together<T>(&self, own: Result<T>) -> Result<T> {
        self.agreed(own, [false, false])
    }

    /// The same of what comes next in a row: all processes have something, or none has.
    ///
    /// # Errors
    /// Also that only some of them have.
    pub fn next_together<T>(&self, own: Result<Option<T>>) -> Result<Option<T>> {
        let has = own.as_ref().is_ok_and(Option::is_some);
        let has_none = own.as_ref().is_ok_and(Option::is_none);
        self.agreed(own, [has, has_none])
    }

    /// [`Team::together`], where no two processes may be of different `kinds`.
    fn agreed<T>(&self, own: Result<T>, [one, other]: [bool; 2]) -> Result<T> {
        if self.is_alone() {
            return own;
        }
        let interrupted = matches!(own, Err(Error::Interrupted(_)));
        let failed = own.is_err() && !interrupted;
        let [failed, stopped, one, other] = self.any([failed, interrupted, one, other])?;
        let apart = one && other;
        if failed || stopped || apart {
            self.part();
        }
        match own {
            Err(error) => Err(error),
            Ok(_) if failed => Err(Error::invalid(format!(
                "another of the {} processes that train together has failed; its own message says why",
                self.size
            ))),
            Ok(_) if stopped => Err(Error::Interrupted(
                "another of the processes that train together was asked to stop".to_owned(),
            )),
            Ok(_) if apart => Err(Error::invalid(format!(
                "the {} processes that train together do not see the same data: some have more of it than others; all must read the same files, with the same ctseg",
                self.size
            ))),
            Ok(value) => Ok(value),
        }
    }

    /// What process 0 knows, for all.
    pub fn told(&self, known: Vec<u8>) -> Result<Vec<u8>> {
        let Some(others) = &self.others else {
            return Ok(known);
        };
        let mut length = [if self.leads() {
            known.len() as f64
        } else {
            0.0
        }];
        others.collective.sum_f64(&mut length)?;
        let mut bytes = if self.leads() { known } else { Vec::new() };
        bytes.resize(length[0] as usize, 0);
        others.collective.broadcast(&mut bytes)?;
        Ok(bytes)
    }

    /// The values of all processes, one after the other in the order of their ranks.
    pub fn gathered(&self, own: &[f32]) -> Result<Gathered> {
        let mut counts = vec![0.0; self.size];
        counts[self.rank] = own.len() as f64;
        self.sum_f64(&mut counts)?;
        let before = |rank: usize| counts[..rank].iter().sum::<f64>() as usize;
        let own_place = before(self.rank)..before(self.rank) + own.len();
        let mut values = vec![0.0; before(self.size)];
        values[own_place.clone()].copy_from_slice(own);
        self.sum_f32(&mut values)?;
        Ok(Gathered { values, own_place })
    }

    /// What the user is told to do if another process is lost.
    pub fn advise(&self, advice: &str) {
        if let Some(others) = &self.others {
            others.watch.advise(advice);
        }
    }

    /// All processes have agreed to end: each will call [`Team::end`] next.
    pub fn part(&self) {
        if let Some(others) = &self.others {
            others.parted.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for all others, and ends: from here on each process goes on by itself. Where they did not part in order
    /// nobody is waited for; a second call does nothing.
    pub fn end(&self) -> Result<()> {
        match &self.others {
            Some(others) if others.parted.swap(false, Ordering::Relaxed) => {
                let ended = others.collective.end();
                others.watch.end();
                ended
            }
            _ => Ok(()),
        }
    }

    /// Refuses to go on where processes were begun with different wishes, such as one fold each. `wishes` are what all
    /// must have alike.
    pub fn agree_on(&self, wishes: &str) -> Result<()> {
        let first = self.told(wishes.as_bytes().to_vec())?;
        let own = match first == wishes.as_bytes() {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "process {} of {} was begun with other arguments, data or precision than process 0: processes that train together need the same; with --alone each trains by itself",
                self.rank, self.size
            ))),
        };
        self.together(own)
    }
}

/// See [`Team::gathered`].
pub struct Gathered {
    pub values: Vec<f32>,
    /// Where this process's own are.
    pub own_place: Range<usize>,
}

/// Who the processes are.
fn names(rank: usize, size: usize, collective: &dyn Collective) -> Result<Vec<Option<ProcessId>>> {
    let own = ProcessId::own().to_string();
    let mut letters = vec![0.0; size * NAME_BYTES];
    let place = &mut letters[rank * NAME_BYTES..];
    for (to, letter) in place.iter_mut().zip(own.bytes()).take(NAME_BYTES) {
        *to = f64::from(letter);
    }
    collective.sum_f64(&mut letters)?;
    let name = |letters: &[f64]| {
        let letters = letters.iter().map(|letter| *letter as u8);
        let letters: Vec<u8> = letters.take_while(|letter| *letter != 0).collect();
        ProcessId::parse(&String::from_utf8(letters).ok()?)
    };
    Ok(letters.chunks(NAME_BYTES).map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::threads::in_team;

    #[test]
    fn shares_are_all_of_it() {
        for (count, size) in [(12, 4), (7, 3), (2, 3), (0, 2)] {
            let mut next = 0;
            for rank in 0..size {
                let team = Team {
                    rank,
                    size,
                    others: None,
                };
                let share = team.share(count);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, count);
        }
        assert_eq!(Team::alone().share(5), 0..5);
    }

    #[test]
    fn what_one_knows_all_know() {
        in_team(3, |team| {
            let known = vec![team.rank() as u8; if team.leads() { 5 } else { 9 }];
            assert_eq!(team.told(known).unwrap(), [0; 5]);
            let own = vec![team.rank() as f32; team.rank() + 1];
            let gathered = team.gathered(&own).unwrap();
            assert_eq!(gathered.values, [0.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
            assert_eq!(gathered.values[gathered.own_place], own);
            let flags = team.any([team.rank() == 2, false, true]).unwrap();
            assert_eq!(flags, [true, false, true]);
        });
    }

    #[test]
    fn one_that_fails_lets_nobody_wait() {
        in_team(2, |team| {
            assert_eq!(team.together(Ok(4)).unwrap(), 4);
            let own = match team.rank() {
                1 => Err(Error::invalid("a case cannot be read")),
                _ => Ok(()),
            };
            let said = team.together(own).unwrap_err();
            let expected = ["another of the 2", "a case cannot be read"][team.rank()];
            assert!(said.to_string().contains(expected), "{said}");
        });
        in_team(2, |team| {
            let own = match team.rank() {
                0 => Err(Error::Interrupted("saved".to_owned())),
                _ => Ok(()),
            };
            let said = team.together(own).unwrap_err();
            assert!(matches!(said, Error::Interrupted(_)), "{said}");
        });
    }

    #[test]
    fn all_come_to_an_end_together() {
        in_team(2, |team| {
            assert_eq!(team.next_together(Ok(Some(3))).unwrap(), Some(3));
            assert_eq!(team.next_together(Ok(None::<u8>)).unwrap(), None);
            let own = (team.rank() == 1).then_some(5);
            let said = team.next_together(Ok(own)).unwrap_err().to_string();
            assert!(said.contains("the same data"), "{said}");
        });
    }

    #[test]
    fn wishes_must_be_the_same() {
        in_team(2, |team| {
            team.agree_on("fold 0").unwrap();
            let said = team.agree_on(&format!("fold {}", team.rank())).unwrap_err();
            let expected = ["another of the 2", "--alone"][team.rank()];
            assert!(said.to_string().contains(expected), "{said}");
        });
    }

    #[test]
    fn one_alone_needs_nobody() {
        let team = Team::alone();
        let mut values = [1.5f32, 2.0];
        team.sum_f32(&mut values).unwrap();
        assert_eq!(values, [1.5, 2.0]);
        assert_eq!(team.told(vec![1, 2]).unwrap(), [1, 2]);
        assert_eq!(team.gathered(&values).unwrap().values, values);
        assert!(team.leads() && team.is_alone());
        team.end().unwrap();
    }
}
