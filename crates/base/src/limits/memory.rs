//! Memory of the machine, and the limits on it: cgroups, Slurm, address space.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::address_space::address_space;
use super::cgroup;
use super::cgroup::Hierarchy;
use super::host::Host;
use super::slurm_memory::slurm_memory;
use super::threads::resident_bytes;

/// Values from here on mean no limit: cgroup v1 writes 9223372036854771712.
const NO_LIMIT: u64 = 1 << 60;

/// Caches may use one part in this many of the memory limit.
const CACHE_SHARE: u64 = 4;

/// The machine's memory and its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    pub machine_bytes: Option<u64>,
    /// Limits below the machine's memory.
    pub limits: Vec<MemoryLimit>,
    /// Bytes available now without swapping or being killed.
    pub available_bytes: Option<u64>,
    /// The source of the limit on `available_bytes`.
    available_by: MemorySource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    pub bytes: u64,
    pub source: MemorySource,
}

/// The source of a limit, with its text for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemorySource {
    Machine,
    /// A cgroup, set in this file.
    Group {
        file: PathBuf,
    },
    /// Environment variables of Slurm.
    Slurm {
        text: String,
    },
    /// `RLIMIT_AS`, which limits mapped memory, resident or not.
    AddressSpace,
}

impl fmt::Display for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("the machine's memory"),
            Self::Group { file } => write!(f, "the cgroup's limit, {}", file.display()),
            Self::Slurm { text } => f.write_str(text),
            Self::AddressSpace => f.write_str("the address space limit (ulimit -v)"),
        }
    }
}

/// The limits and usage of a cgroup. As in kubelet's working set, usage excludes inactive file cache.
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
        let mut limit_to = |left: u64, source: &MemorySource| {
            if available.as_ref().is_none_or(|(known, _)| left < *known) {
                available = Some((left, source.clone()));
            }
        };
        for group in &groups {
            for (bytes, file) in group.limits.iter().filter(|(bytes, _)| is_less(*bytes)) {
                let file = host.shown(file);
                let source = MemorySource::Group { file };
                limit_to(bytes.saturating_sub(group.used.unwrap_or(0)), &source);
                limits.push(MemoryLimit {
                    bytes: *bytes,
                    source,
                });
            }
        }
        if let Some((bytes, text)) = slurm_memory(host).filter(|(bytes, _)| is_less(*bytes)) {
            let source = MemorySource::Slurm { text };
            limit_to(bytes, &source);
            limits.push(MemoryLimit { bytes, source });
        }
        if let Some([mapped, bytes]) = address_space(host).filter(|[_, bytes]| is_less(*bytes)) {
            let source = MemorySource::AddressSpace;
            limit_to(bytes.saturating_sub(mapped), &source);
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

    /// The most that a process with this many `resident` bytes can use now: its limit, or less if others use memory.
    fn usable(&self, resident: u64) -> Option<MemoryLimit> {
        let limit = self.limit()?;
        let bytes = self.available_bytes?.saturating_add(resident);
        let source = self.available_by.clone();
        match bytes < limit.bytes {
            true => Some(MemoryLimit { bytes, source }),
            false => Some(limit),
        }
    }

    /// The tightest limit, which may be the machine's memory; `None` if unknown.
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

/// The memory limit of this process; `None` if unknown.
pub fn limit() -> Option<MemoryLimit> {
    Memory::of(&Host::local()).limit()
}

/// The most memory that this process can use now, and what limits it; `None` if unknown.
pub fn usable() -> Option<MemoryLimit> {
    Memory::of(&Host::local()).usable(resident_bytes())
}

/// Bytes for a cache: `wanted`, but at most a quarter of the memory limit.
pub fn cache_budget(wanted: u64) -> u64 {
    share_of(limit(), wanted)
}

fn share_of(limit: Option<MemoryLimit>, wanted: u64) -> u64 {
    limit.map_or(wanted, |limit| wanted.min(limit.bytes / CACHE_SHARE))
}

/// Used and total memory of the tightest cgroup of this process, otherwise of the machine.
pub fn used_and_total(host: &Host) -> Option<[u64; 2]> {
    let machine = machine_memory(&host.read("/proc/meminfo")?)?;
    let groups = groups(host).into_iter().filter_map(|group| {
        let limit = group.limits.iter().map(|(bytes, _)| *bytes).min()?;
        Some([group.used?, limit])
    });
    let groups = groups.filter(|[_, limit]| *limit > 0 && *limit < machine[1]);
    Some(groups.min_by_key(|[_, limit]| *limit).unwrap_or(machine))
}

/// Used and total memory from `/proc/meminfo`; reclaimable memory does not count as used.
fn machine_memory(meminfo: &str) -> Option<[u64; 2]> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    let (all, available) = (bytes("MemTotal:")?, bytes("MemAvailable:")?);
    (all > 0).then(|| [all.saturating_sub(available), all])
}

/// This process's cgroup and its ancestors, in v1 and v2.
fn groups(host: &Host) -> Vec<Group> {
    let v1 = cgroup::folders(host, Hierarchy::Controller("memory")).into_iter();
    let all = v1.chain(cgroup::folders(host, Hierarchy::Unified));
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
    // Above `memory.high` a group is throttled until memory is reclaimed.
    let files = ["memory.max", "memory.high", "memory.limit_in_bytes"];
    let files = files.map(|name| (number(name), folder.join(name)));
    // The limit of ancestors that a container cannot see.
    let hierarchical = (
        counted("hierarchical_memory_limit"),
        folder.join("memory.stat"),
    );
    let limits = files.into_iter().chain([hierarchical]);
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
    use crate::limits::host::fake_host;

    const MEMINFO: &str =
        "MemTotal:       8000000 kB\nMemFree:  100 kB\nMemAvailable:   6000000 kB\n";
    const V2: &str = "24 1 0:22 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";

    /// A machine with these files, cgroups and mounts.
    fn machine(groups: &str, mounts: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let own = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", groups),
            ("proc/self/mountinfo", mounts),
        ];
        fake_host(&[&own, files].concat())
    }

    fn limit_of(host: &Host) -> (u64, String) {
        let limit = Memory::of(host).limit().unwrap();
        (limit.bytes, limit.source.to_string())
    }

    #[test]
    fn without_limits_the_machines_memory_counts() {
        let (_root, host) = machine("", "", &[]);
        let memory = Memory::of(&host);
        assert_eq!(memory.machine_bytes, Some(8_192_000_000));
        assert_eq!(memory.available_bytes, Some(6_144_000_000));
        let own = (8_192_000_000, "the machine's memory".to_owned());
        assert_eq!(limit_of(&host), own);
        assert_eq!(used_and_total(&host), Some([2_048_000_000, 8_192_000_000]));
        let nothing = tempfile::tempdir().unwrap();
        let nothing = Memory::of(&Host::with_root(nothing.path()).with_variables(&[]));
        assert_eq!((nothing.limit(), nothing.available_bytes), (None, None));
    }

    #[test]
    fn ancestors_count_in_v2() {
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
        let (root, host) = machine("0::/pod/c1\n", V2, &files);
        let expected = "the cgroup's limit, /sys/fs/cgroup/pod/memory.max";
        assert_eq!(limit_of(&host), (3_000_000_000, expected.to_owned()));
        let memory = Memory::of(&host);
        assert_eq!(memory.available_bytes, Some(1_500_000_000));
        assert_eq!(used_and_total(&host), Some([1_500_000_000, 3_000_000_000]));
        let high = root.path().join("sys/fs/cgroup/pod/c1/memory.high");
        fs::write(high, "2000000000\n").unwrap();
        let expected = "the cgroup's limit, /sys/fs/cgroup/pod/c1/memory.high";
        assert_eq!(limit_of(&host), (2_000_000_000, expected.to_owned()));
    }

    #[test]
    fn v1_has_a_number_for_no_limit_and_a_hierarchical_limit() {
        let file = "sys/fs/cgroup/memory/job/memory.limit_in_bytes";
        let usage = "sys/fs/cgroup/memory/job/memory.usage_in_bytes";
        let stat = "sys/fs/cgroup/memory/job/memory.stat";
        let of = |limit: &str, around: &str| {
            let around = format!("cache 1\nhierarchical_memory_limit {around}\n");
            let files = [(file, limit), (usage, "1000\n"), (stat, around.as_str())];
            let (_root, host) = machine("4:memory:/job\n", V1, &files);
            (limit_of(&host), used_and_total(&host).unwrap()[1])
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
        // A limit above the machine's memory is ignored.
        assert_eq!(of("9000000000", none).0.0, machine);
    }

    #[test]
    fn slurm_limits_memory() {
        let (_root, host) = machine("", "", &[]);
        let of = |variables: &[(&str, &str)]| limit_of(&host.clone().with_variables(variables));
        let node = of(&[("SLURM_MEM_PER_NODE", "2000")]);
        let expected = "SLURM_MEM_PER_NODE=2000 (MB)".to_owned();
        assert_eq!(node, (2000 << 20, expected));
        let whole = of(&[("SLURM_MEM_PER_NODE", "0"), ("SLURM_MEM_PER_CPU", "10")]);
        assert_eq!(whole.0, 8_192_000_000);
        let each = ("SLURM_MEM_PER_CPU", "500");
        let cpus = of(&[each, ("SLURM_CPUS_ON_NODE", "4")]);
        let expected = "SLURM_MEM_PER_CPU=500 (MB) × SLURM_CPUS_ON_NODE=4".to_owned();
        assert_eq!(cpus, (2000 << 20, expected));
        let nodes = of(&[each, ("SLURM_JOB_CPUS_PER_NODE", "6(x2),3")]);
        assert_eq!(nodes.0, 3000 << 20);
        let gpus = of(&[("SLURM_MEM_PER_GPU", "1000"), ("SLURM_GPUS_ON_NODE", "2")]);
        assert_eq!(gpus.0, 2000 << 20);
        // More than the machine has, no count to multiply with, and invalid numbers.
        for odd in ["99999999", "x", "-1"] {
            assert_eq!(of(&[("SLURM_MEM_PER_NODE", odd)]).0, 8_192_000_000, "{odd}");
        }
        assert_eq!(of(&[each]).0, 8_192_000_000);
    }

    #[test]
    fn memory_used_by_others_is_not_usable() {
        let usable = |files: &[(&str, &str)]| {
            let (_root, host) = machine("", "", files);
            let found = Memory::of(&host).usable(100_000_000).unwrap();
            (found.bytes, found.source)
        };
        assert_eq!(usable(&[]), (6_244_000_000, MemorySource::Machine));
        let limits = |bytes: &str| {
            format!("Max cpu time  1 1 seconds\nMax address space  {bytes}  unlimited  bytes\n")
        };
        let mapped = (
            "proc/self/status",
            "VmSize:  1000000 kB\nVmRSS:  90000 kB\n",
        );
        let some = limits("3000000000");
        let found = usable(&[("proc/self/limits", some.as_str()), mapped]);
        // Mapped but not resident memory still counts towards the limit.
        let expected = 3_000_000_000 - 1_024_000_000 + 100_000_000;
        assert_eq!(found, (expected, MemorySource::AddressSpace));
        let none = limits("unlimited");
        let found = usable(&[("proc/self/limits", none.as_str()), mapped]);
        assert_eq!(found.1, MemorySource::Machine);
    }

    #[test]
    fn caches_get_a_share() {
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
        let memory = Memory::of(&Host::local());
        let limit = memory.limit().unwrap();
        assert!(memory.available_bytes.unwrap() <= limit.bytes);
        assert!(crate::limits::threads::resident_bytes() < limit.bytes);
    }
}
