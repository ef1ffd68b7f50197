//! Memory: the machine's, and what of it cgroups and Slurm leave to this process.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::address_space::address_space;
use super::cgroup;
use super::cgroup::Hierarchy;
use super::host::Host;
use super::slurm_memory::slurm_memory;
use super::threads::resident_bytes;

/// More than any machine has; cgroup v1 writes 9223372036854771712 where there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// Of what may be taken at all, this share at most goes to what is kept to save time.
const KEPT_SHARE: u64 = 4;

/// The machine's memory and every limit on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    pub machine_bytes: Option<u64>,
    /// Those below the machine's own.
    pub limits: Vec<MemoryLimit>,
    /// What can be taken now without swapping or being killed.
    pub available_bytes: Option<u64>,
    /// What leaves no more than that.
    available_by: MemorySource,
}

/// So many bytes, and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    pub bytes: u64,
    pub source: MemorySource,
}

/// What sets a limit; its text says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemorySource {
    /// There is no more.
    Machine,
    /// A cgroup, by this file.
    Group { file: PathBuf },
    /// Environment variables of Slurm's.
    Slurm { words: String },
    /// `RLIMIT_AS`, which counts what is mapped and not only what is resident.
    AddressSpace,
}

impl fmt::Display for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("the machine's memory"),
            Self::Group { file } => write!(f, "the cgroup's limit, {}", file.display()),
            Self::Slurm { words } => f.write_str(words),
            Self::AddressSpace => f.write_str("the limit of its address space, ulimit -v"),
        }
    }
}

/// A cgroup with its limits and what it has taken; files in the cache that nobody uses are not counted, as in
/// kubelet's working set.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    limits: Vec<(u64, PathBuf)>,
    used: Option<u64>,
}

impl Memory {
    pub fn of(host: &Host) -> Self {
        let machine = machine_memory(&host.read("/proc/meminfo").unwrap_or_default());
        let machine_bytes = machine.map(|[_, all]| all);
        let is_less = |bytes: u64| bytes > 0 && bytes < machine_bytes.unwrap_or(NO_LIMIT);
        let groups = groups(host);
        let mut limits = Vec::new();
        let mut available = machine.map(|[used, all]| (all - used, MemorySource::Machine));
        let mut leaves = |left: u64, source: &MemorySource| {
            if available.as_ref().is_none_or(|(known, _)| left < *known) {
                available = Some((left, source.clone()));
            }
        };
        for group in &groups {
            for (bytes, file) in group.limits.iter().filter(|(bytes, _)| is_less(*bytes)) {
                let file = host.shown(file);
                let source = MemorySource::Group { file };
                leaves(bytes.saturating_sub(group.used.unwrap_or(0)), &source);
                limits.push(MemoryLimit {
                    bytes: *bytes,
                    source,
                });
            }
        }
        if let Some((bytes, words)) = slurm_memory(host).filter(|(bytes, _)| is_less(*bytes)) {
            let source = MemorySource::Slurm { words };
            leaves(bytes, &source);
            limits.push(MemoryLimit { bytes, source });
        }
        if let Some([mapped, bytes]) = address_space(host).filter(|[_, bytes]| is_less(*bytes)) {
            let source = MemorySource::AddressSpace;
            leaves(bytes.saturating_sub(mapped), &source);
            limits.push(MemoryLimit { bytes, source });
        }
        let available_bytes = available.as_ref().map(|(bytes, _)| *bytes);
        Self {
            machine_bytes,
            limits,
            available_bytes,
            available_by: available.map_or(MemorySource::Machine, |(_, source)| source),
        }
    }

    /// The most that a process with so many `resident` bytes can hold now: its limit, or less where others have taken
    /// some of it.
    fn reachable(&self, resident: u64) -> Option<MemoryLimit> {
        let limit = self.limit()?;
        let bytes = self.available_bytes?.saturating_add(resident);
        let source = self.available_by.clone();
        match bytes < limit.bytes {
            true => Some(MemoryLimit { bytes, source }),
            false => Some(limit),
        }
    }

    /// The limit that counts, which may be the machine's memory; none where nothing is known.
    pub fn limit(&self) -> Option<MemoryLimit> {
        let tightest = self.limits.iter().min_by_key(|limit| limit.bytes);
        tightest.cloned().or_else(|| {
            Some(MemoryLimit {
                bytes: self.machine_bytes?,
                source: MemorySource::Machine,
            })
        })
    }
}

/// What this process may take, and what says so; none where the system does not tell.
pub fn limit() -> Option<MemoryLimit> {
    Memory::of(&Host::this()).limit()
}

/// The most that this process can hold in memory now, and what leaves no more; none where the system does not tell.
pub fn reachable() -> Option<MemoryLimit> {
    Memory::of(&Host::this()).reachable(resident_bytes())
}

/// `wanted` bytes for what is kept to save time, or less where this process may not take much.
pub fn kept_at_most(wanted: u64) -> u64 {
    share_of(limit(), wanted)
}

fn share_of(limit: Option<MemoryLimit>, wanted: u64) -> u64 {
    limit.map_or(wanted, |limit| wanted.min(limit.bytes / KEPT_SHARE))
}

/// Memory that is used and that there is: of the tightest cgroup around this process, else of the machine.
pub fn used_of_all(host: &Host) -> Option<[u64; 2]> {
    let machine = machine_memory(&host.read("/proc/meminfo")?)?;
    let groups = groups(host).into_iter().filter_map(|group| {
        let limit = group.limits.iter().map(|(bytes, _)| *bytes).min()?;
        Some([group.used?, limit])
    });
    let groups = groups.filter(|[_, limit]| *limit > 0 && *limit < machine[1]);
    Some(groups.min_by_key(|[_, limit]| *limit).unwrap_or(machine))
}

/// From `/proc/meminfo`, used and all; what the kernel would give back when asked is not used.
fn machine_memory(meminfo: &str) -> Option<[u64; 2]> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    let (all, available) = (bytes("MemTotal:")?, bytes("MemAvailable:")?);
    (all > 0).then(|| [all.saturating_sub(available), all])
}

/// This process's group and the groups around it, in either version.
fn groups(host: &Host) -> Vec<Group> {
    let divided = cgroup::folders(host, Hierarchy::Controller("memory")).into_iter();
    let all = divided.chain(cgroup::folders(host, Hierarchy::Unified));
    all.map(|folder| group(&folder)).collect()
}

fn group(folder: &Path) -> Group {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let stat = read("memory.stat").unwrap_or_default();
    let counted = |wanted: &str| {
        stat.lines().find_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            (name == wanted).then(|| bytes.trim().parse::<u64>().ok())?
        })
    };
    // Above `memory.high` a group is slowed down until it has given back what it has taken.
    let files = ["memory.max", "memory.high", "memory.limit_in_bytes"];
    let files = files.map(|name| (number(name), folder.join(name)));
    // Of groups around it that cannot be seen from within a container.
    let around = (
        counted("hierarchical_memory_limit"),
        folder.join("memory.stat"),
    );
    let limits = files.into_iter().chain([around]);
    let limits = limits.filter_map(|(bytes, file)| Some((bytes?, file)));
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"));
    let unused = counted("total_inactive_file").or_else(|| counted("inactive_file"));
    Group {
        limits: limits.filter(|(bytes, _)| *bytes < NO_LIMIT).collect(),
        used: used.map(|used| used.saturating_sub(unused.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::host::made_up;

    const MEMINFO: &str =
        "MemTotal:       8000000 kB\nMemFree:  100 kB\nMemAvailable:   6000000 kB\n";
    const UNIFIED: &str = "24 1 0:22 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
    const DIVIDED: &str =
        "35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";

    /// A machine with these files, in the groups and with the mounts that are given.
    fn machine(groups: &str, mounts: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let own = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", groups),
            ("proc/self/mountinfo", mounts),
        ];
        made_up(&[&own, files].concat())
    }

    fn limit_of(host: &Host) -> (u64, String) {
        let limit = Memory::of(host).limit().unwrap();
        (limit.bytes, limit.source.to_string())
    }

    #[test]
    fn without_limits_there_is_the_machines_memory() {
        let (_root, host) = machine("", "", &[]);
        let memory = Memory::of(&host);
        assert_eq!(memory.machine_bytes, Some(8_192_000_000));
        assert_eq!(memory.available_bytes, Some(6_144_000_000));
        let own = (8_192_000_000, "the machine's memory".to_owned());
        assert_eq!(limit_of(&host), own);
        assert_eq!(used_of_all(&host), Some([2_048_000_000, 8_192_000_000]));
        let nothing = tempfile::tempdir().unwrap();
        let nothing = Memory::of(&Host::below(nothing.path()).with_variables(&[]));
        assert_eq!((nothing.limit(), nothing.available_bytes), (None, None));
    }

    #[test]
    fn groups_around_this_one_count_in_version_2() {
        let files = [
            ("sys/fs/cgroup/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/memory.max", "3000000000\n"),
            ("sys/fs/cgroup/pod/memory.current", "1900000000\n"),
            (
                "sys/fs/cgroup/pod/memory.stat",
                "anon 10\ninactive_file 400000000\n",
            ),
            ("sys/fs/cgroup/pod/c1/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/c1/memory.current", "5000\n"),
        ];
        let (root, host) = machine("0::/pod/c1\n", UNIFIED, &files);
        let said = "the cgroup's limit, /sys/fs/cgroup/pod/memory.max";
        assert_eq!(limit_of(&host), (3_000_000_000, said.to_owned()));
        let memory = Memory::of(&host);
        assert_eq!(memory.available_bytes, Some(1_500_000_000));
        assert_eq!(used_of_all(&host), Some([1_500_000_000, 3_000_000_000]));
        let high = root.path().join("sys/fs/cgroup/pod/c1/memory.high");
        fs::write(high, "2000000000\n").unwrap();
        let said = "the cgroup's limit, /sys/fs/cgroup/pod/c1/memory.high";
        assert_eq!(limit_of(&host), (2_000_000_000, said.to_owned()));
    }

    #[test]
    fn version_1_has_a_number_for_no_limit_and_one_for_what_is_around() {
        let file = "sys/fs/cgroup/memory/job/memory.limit_in_bytes";
        let usage = "sys/fs/cgroup/memory/job/memory.usage_in_bytes";
        let stat = "sys/fs/cgroup/memory/job/memory.stat";
        let of = |limit: &str, around: &str| {
            let around = format!("cache 1\nhierarchical_memory_limit {around}\n");
            let files = [(file, limit), (usage, "1000\n"), (stat, around.as_str())];
            let (_root, host) = machine("4:memory:/job\n", DIVIDED, &files);
            (limit_of(&host), used_of_all(&host).unwrap()[1])
        };
        let none = "9223372036854771712";
        let machine = 8_192_000_000;
        assert_eq!(
            of(none, none),
            ((machine, "the machine's memory".to_owned()), machine)
        );
        let own = "the cgroup's limit, /sys/fs/cgroup/memory/job/memory.limit_in_bytes";
        assert_eq!(
            of("4096000\n", none),
            ((4_096_000, own.to_owned()), 4_096_000)
        );
        let around = "the cgroup's limit, /sys/fs/cgroup/memory/job/memory.stat";
        assert_eq!(
            of(none, "2048000"),
            ((2_048_000, around.to_owned()), 2_048_000)
        );
        // More than there is limits nothing.
        assert_eq!(of("9000000000", none).0.0, machine);
    }

    #[test]
    fn slurm_says_what_a_job_may_take() {
        let (_root, host) = machine("", "", &[]);
        let of = |variables: &[(&str, &str)]| limit_of(&host.clone().with_variables(variables));
        let node = of(&[("SLURM_MEM_PER_NODE", "2000")]);
        let said = "SLURM_MEM_PER_NODE=2000 (MB)".to_owned();
        assert_eq!(node, (2000 << 20, said));
        let whole = of(&[("SLURM_MEM_PER_NODE", "0"), ("SLURM_MEM_PER_CPU", "10")]);
        assert_eq!(whole.0, 8_192_000_000);
        let each = ("SLURM_MEM_PER_CPU", "500");
        let cpus = of(&[each, ("SLURM_CPUS_ON_NODE", "4")]);
        let said = "SLURM_MEM_PER_CPU=500 (MB) × SLURM_CPUS_ON_NODE=4".to_owned();
        assert_eq!(cpus, (2000 << 20, said));
        let nodes = of(&[each, ("SLURM_JOB_CPUS_PER_NODE", "6(x2),3")]);
        assert_eq!(nodes.0, 3000 << 20);
        let gpus = of(&[("SLURM_MEM_PER_GPU", "1000"), ("SLURM_GPUS_ON_NODE", "2")]);
        assert_eq!(gpus.0, 2000 << 20);
        // More than the machine has, nothing to multiply with, and what is no number.
        for odd in ["99999999", "x", "-1"] {
            assert_eq!(of(&[("SLURM_MEM_PER_NODE", odd)]).0, 8_192_000_000, "{odd}");
        }
        assert_eq!(of(&[each]).0, 8_192_000_000);
    }

    #[test]
    fn what_others_have_taken_cannot_be_reached() {
        let reachable = |files: &[(&str, &str)]| {
            let (_root, host) = machine("", "", files);
            let found = Memory::of(&host).reachable(100_000_000).unwrap();
            (found.bytes, found.source)
        };
        assert_eq!(reachable(&[]), (6_244_000_000, MemorySource::Machine));
        let limits = |bytes: &str| {
            format!("Max cpu time  1 1 seconds\nMax address space  {bytes}  unlimited  bytes\n")
        };
        let mapped = (
            "proc/self/status",
            "VmSize:  1000000 kB\nVmRSS:  90000 kB\n",
        );
        let some = limits("3000000000");
        let found = reachable(&[("proc/self/limits", some.as_str()), mapped]);
        // What is mapped and not resident cannot be used for anything else.
        let expected = 3_000_000_000 - 1_024_000_000 + 100_000_000;
        assert_eq!(found, (expected, MemorySource::AddressSpace));
        let none = limits("unlimited");
        let found = reachable(&[("proc/self/limits", none.as_str()), mapped]);
        assert_eq!(found.1, MemorySource::Machine);
    }

    #[test]
    fn what_is_kept_to_save_time_is_a_share() {
        let of = |bytes| MemoryLimit {
            bytes,
            source: MemorySource::Machine,
        };
        assert_eq!(share_of(Some(of(4000)), 2000), 1000);
        assert_eq!(share_of(Some(of(40_000)), 2000), 2000);
        assert_eq!(share_of(None, 2000), 2000);
    }

    #[test]
    fn this_machine_has_memory() {
        let memory = Memory::of(&Host::this());
        let limit = memory.limit().unwrap();
        assert!(memory.available_bytes.unwrap() <= limit.bytes);
        assert!(crate::limits::threads::resident_bytes() < limit.bytes);
    }
}
