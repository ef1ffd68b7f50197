//! What of the machine is this process's: cores (affinity, cgroup quotas, Slurm), memory it took.

use std::fs;
use std::num::NonZero;
use std::path::Path;

use crate::cgroup::{self, Hierarchy};
use crate::error::{Error, Result};

/// More threads than any machine has cores; what is above is a slip of the keyboard.
const MOST_THREADS: usize = 4096;

/// Cores that this process may use, at least 1: the smallest of
///
/// - its CPU affinity and its cgroup's quota, as far as [`std::thread::available_parallelism`] sees them
///   (cgroup v1 wherever it is mounted; cgroup v2 and its parents below `/sys/fs/cgroup`);
/// - cgroup v2 quotas that the above misses: containers that share the host's cgroup namespace, and
///   hierarchies mounted elsewhere (`/sys/fs/cgroup/unified`);
/// - `SLURM_CPUS_PER_TASK`, which clusters without task affinity enforce no other way.
///
/// A quota of 1.5 cores counts as 1, as in the standard library: with 2 threads the kernel would stop the
/// whole process for the rest of every period once the quota is used up.
pub fn available_cores() -> usize {
    let seen = std::thread::available_parallelism().map_or(1, NonZero::get);
    let quota = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .zip(fs::read_to_string("/proc/self/mountinfo").ok())
        .and_then(|(groups, mounts)| unified_quota(&groups, &mounts, Path::new("/")));
    let slurm = std::env::var("SLURM_CPUS_PER_TASK").ok();
    smallest(seen, quota, slurm.as_deref())
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

/// The smallest of what is known, at least 1. `slurm` is ignored unless it is a positive number.
fn smallest(seen: usize, quota: Option<usize>, slurm: Option<&str>) -> usize {
    let slurm = slurm.and_then(|text| text.trim().parse::<usize>().ok());
    [quota, slurm.filter(|cores| *cores > 0)]
        .into_iter()
        .flatten()
        .fold(seen, usize::min)
        .max(1)
}

/// The tightest cgroup v2 quota, in whole cores, of the group in `groups` (`/proc/self/cgroup`) and of the
/// groups around it, as far as `mounts` (`/proc/self/mountinfo`) shows them below `root`.
fn unified_quota(groups: &str, mounts: &str, root: &Path) -> Option<usize> {
    // Where a v1 hierarchy has the cpu controller, the unified one has none; cpu.max is missing there.
    cgroup::folders_in(Hierarchy::Unified, groups, mounts, root)
        .iter()
        .filter_map(|folder| fs::read_to_string(folder.join("cpu.max")).ok())
        .filter_map(|text| whole_cores(&text))
        .min()
}

/// `cpu.max` ("quota period" in microseconds, or "max period") in whole cores, at least 1; nothing where
/// there is no limit.
fn whole_cores(cpu_max: &str) -> Option<usize> {
    let mut words = cpu_max.split_whitespace();
    let quota: usize = words.next()?.parse().ok()?;
    let period: usize = words.next()?.parse().ok()?;
    Some(quota.checked_div(period)?.max(1))
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

    const UNIFIED: &str =
        "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    /// A folder with the given groups' `cpu.max`.
    fn tree(limits: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (folder, text) in limits {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cpu.max"), text).unwrap();
        }
        root
    }

    #[test]
    fn quotas_round_down_to_at_least_one_core() {
        for (text, cores) in [
            ("400000 100000\n", Some(4)),
            ("150000 100000\n", Some(1)),
            ("399999 100000\n", Some(3)),
            ("50000 100000\n", Some(1)),
            ("max 100000\n", None),
            ("100000 0\n", None),
            ("100000\n", None),
            ("", None),
        ] {
            assert_eq!(whole_cores(text), cores, "{text:?}");
        }
    }

    #[test]
    fn the_tightest_group_around_this_one_counts() {
        let root = tree(&[
            ("sys/fs/cgroup/slurm/job_7/step_0", "max 100000\n"),
            ("sys/fs/cgroup/slurm/job_7", "350000 100000\n"),
            ("sys/fs/cgroup/slurm", "6400000 100000\n"),
            ("sys/fs/cgroup/other", "100000 100000\n"),
            // Above the mount: not a group.
            ("sys/fs", "100000 100000\n"),
        ]);
        let quota = |group: &str| unified_quota(&format!("0::{group}\n"), UNIFIED, root.path());
        assert_eq!(quota("/slurm/job_7/step_0"), Some(3));
        assert_eq!(quota("/slurm/job_8"), Some(64));
        assert_eq!(quota("/"), None);
        assert_eq!(quota("/../other"), None);
    }

    #[test]
    fn containers_in_the_hosts_cgroup_namespace_see_their_quota_at_the_mount() {
        let root = tree(&[("sys/fs/cgroup", "200000 100000\n")]);
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            900 800 0:27 /kubepods/pod1/c1 /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
        let quota = |group: &str| unified_quota(&format!("0::{group}\n"), mounts, root.path());
        assert_eq!(quota("/kubepods/pod1/c1"), Some(2));
        // A bind mount of another group says nothing of this one.
        assert_eq!(quota("/kubepods/pod1/c10"), None);
    }

    #[test]
    fn hierarchies_mounted_elsewhere_are_found() {
        let root = tree(&[("mnt/my groups/a", "500000 100000\n")]);
        let mounts = "41 31 0:38 / /mnt/my\\040groups rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(unified_quota("0::/a/b\n", mounts, root.path()), Some(5));
    }

    #[test]
    fn cgroup_v1_is_left_to_the_standard_library() {
        let root = tree(&[("sys/fs/cgroup/cpu/a", "100000 100000\n")]);
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(unified_quota("1:cpu:/a\n", mounts, root.path()), None);
        assert_eq!(unified_quota("1:cpu:/a\n0::/\n", mounts, root.path()), None);
    }

    #[test]
    fn the_smallest_limit_counts() {
        assert_eq!(smallest(16, None, None), 16);
        assert_eq!(smallest(16, Some(3), Some("8")), 3);
        assert_eq!(smallest(16, Some(32), Some("8\n")), 8);
        assert_eq!(smallest(2, None, Some("64")), 2);
        assert_eq!(smallest(4, None, Some("0")), 4);
        assert_eq!(smallest(4, None, Some("-2")), 4);
        assert_eq!(smallest(4, None, Some("2(x3)")), 4);
        assert_eq!(smallest(0, None, None), 1);
    }

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
