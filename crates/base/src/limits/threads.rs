//! Number of compute threads, and memory usage of this process.

use std::fs;
use std::num::NonZero;

use super::address_space::address_space;
use super::cores::Cores;
use super::host::Host;
use crate::{Error, Result};

/// More than any machine has cores; larger values are typing errors.
const MAX_THREADS: usize = 4096;

/// Cores available to this process, at least 1: the smaller of [`Cores`] (affinity, cgroup quotas, Slurm) and the
/// standard library's count, which also covers systems without `/proc`.
pub fn available_cores() -> usize {
    let seen = std::thread::available_parallelism().map_or(1, NonZero::get);
    let known = Cores::of(&Host::local()).usable();
    known.map_or(seen, |known| known.min(seen)).max(1)
}

/// Number of compute threads: `threads_flag` (`--threads`) if given, otherwise [`available_cores`].
///
/// Errors when the flag is 0 or more than 4096.
pub fn resolve(threads_flag: Option<usize>) -> Result<usize> {
    match threads_flag {
        None => Ok(available_cores()),
        Some(threads) if (1..=MAX_THREADS).contains(&threads) => Ok(threads),
        Some(threads) => Err(Error::usage(format!(
            "--threads {threads}: expected 1 to {MAX_THREADS}; omit it to use the {} cores available to this process",
            available_cores()
        ))),
    }
}

/// Number of data-loader threads (`--loader-threads`), as given.
///
/// Errors when the flag is 0 or more than 4096.
pub fn loader_threads(flag: Option<usize>) -> Result<Option<usize>> {
    match flag {
        Some(threads) if !(1..=MAX_THREADS).contains(&threads) => Err(Error::usage(format!(
            "--loader-threads {threads}: expected 1 to {MAX_THREADS}; omit it to load data on the compute threads"
        ))),
        known => Ok(known),
    }
}

/// Makes glibc return blocks of 1 MiB and more to the system as soon as they are freed, which it stops doing by default
/// after a while. Peak resident memory then equals peak use.
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two parameters of glibc's allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
    }
}

/// Makes all threads allocate from one heap if the address space is limited (`ulimit -v`). By default, glibc reserves 64 MiB
/// of it for the heap of each thread, used or not.
///
/// Call it before the first thread is started.
pub fn share_one_heap_below_a_limit() {
    #[cfg(target_env = "gnu")]
    if address_space(&Host::local()).is_some() {
        // SAFETY: sets a parameter of glibc's allocator.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Peak resident memory of this process so far, if known.
pub fn peak_memory_mb() -> Option<f64> {
    let kilobytes = status_kilobytes("VmHWM:")? as f64;
    Some((kilobytes / 1024.0 * 10.0).round() / 10.0)
}

/// Resident memory of this process; 0 if unknown.
pub fn resident_bytes() -> u64 {
    status_kilobytes("VmRSS:").unwrap_or(0) * 1024
}

/// The value of a line of proc_pid_status(5), in kB.
fn status_kilobytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Resets [`peak_memory_mb`] to the current resident memory, if the system supports it.
pub fn reset_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5"); // only a measurement
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_used_as_given() {
        assert_eq!(resolve(Some(3)).unwrap(), 3);
        assert!(resolve(None).unwrap() >= 1);
        assert_eq!(loader_threads(Some(3)).unwrap(), Some(3));
        assert_eq!(loader_threads(None).unwrap(), None);
        for threads in [0, MAX_THREADS + 1] {
            let message = resolve(Some(threads)).unwrap_err().to_string();
            assert!(
                message.contains(&format!("--threads {threads}:")),
                "{message}"
            );
            let message = loader_threads(Some(threads)).unwrap_err().to_string();
            assert!(
                message.contains(&format!("--loader-threads {threads}:")),
                "{message}"
            );
        }
    }
}
