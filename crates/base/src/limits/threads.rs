//! Threads to compute with, and the memory that this process took.

use std::fs;
use std::num::NonZero;

use super::cores::Cores;
use super::host::Host;
use crate::{Error, Result};

/// More threads than any machine has cores; what is above is a slip of the keyboard.
const MOST_THREADS: usize = 4096;

/// Cores that this process may use, at least 1: the smallest of what [`Cores`] finds (affinity, cgroup quotas, Slurm)
/// and what the standard library does, which knows systems without `/proc` too.
pub fn available_cores() -> usize {
    let seen = std::thread::available_parallelism().map_or(1, NonZero::get);
    let known = Cores::of(&Host::this()).usable();
    known.map_or(seen, |known| known.min(seen)).max(1)
}

/// Threads to compute with: `threads_flag` (`--threads`) where it is given, else [`available_cores`].
///
/// Errors when the flag is 0 or more than 4096.
pub fn resolve(threads_flag: Option<usize>) -> Result<usize> {
    match threads_flag {
        None => Ok(available_cores()),
        Some(threads) if (1..=MOST_THREADS).contains(&threads) => Ok(threads),
        Some(threads) => Err(Error::usage(format!(
            "--threads {threads}: expected 1 to {MOST_THREADS}; leave it out to use the {} that this process may use",
            available_cores()
        ))),
    }
}

/// Threads to prepare batches on (`--loader-threads`), as they are given.
///
/// Errors when they are 0 or more than 4096.
pub fn loader_threads(flag: Option<usize>) -> Result<Option<usize>> {
    match flag {
        Some(threads) if !(1..=MOST_THREADS).contains(&threads) => Err(Error::usage(format!(
            "--loader-threads {threads}: expected 1 to {MOST_THREADS}; leave it out to prepare batches on the threads that compute"
        ))),
        known => Ok(known),
    }
}

/// From here on what was taken for arrays of 1 MiB and more goes back to the system as soon as it is freed, which
/// glibc by itself stops doing after a while: the largest resident memory is then what was in use at once.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two numbers of glibc's allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
    }
}

/// The process's largest resident memory so far, where the system tells.
pub fn peak_memory_mb() -> Option<f64> {
    let kilobytes = status_kilobytes("VmHWM:")? as f64;
    Some((kilobytes / 1024.0 * 10.0).round() / 10.0)
}

/// The process's resident memory; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    status_kilobytes("VmRSS:").unwrap_or(0) * 1024
}

/// A line of proc_pid_status(5).
fn status_kilobytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Lets [`peak_memory_mb`] begin anew at what is resident now, where the system can.
pub fn reset_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5"); // measuring is worth no failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_taken_as_it_is() {
        assert_eq!(resolve(Some(3)).unwrap(), 3);
        assert!(resolve(None).unwrap() >= 1);
        assert_eq!(loader_threads(Some(3)).unwrap(), Some(3));
        assert_eq!(loader_threads(None).unwrap(), None);
        for threads in [0, MOST_THREADS + 1] {
            let said = resolve(Some(threads)).unwrap_err().to_string();
            assert!(said.contains(&format!("--threads {threads}:")), "{said}");
            let said = loader_threads(Some(threads)).unwrap_err().to_string();
            assert!(
                said.contains(&format!("--loader-threads {threads}:")),
                "{said}"
            );
        }
    }
}
