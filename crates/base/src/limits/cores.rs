//! CPU cores of the machine, and the limits on them: affinity, cgroup quotas, Slurm.

use std::fmt;
use std::path::PathBuf;

use super::cgroup;
use super::cgroup::Hierarchy;
use super::host::Host;

/// The machine's cores and their limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// Online cores.
    pub machine: Option<usize>,
    pub limits: Vec<CoreLimit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreLimit {
    /// At least 1.
    pub cores: usize,
    pub source: CoreSource,
}

/// The source of a limit, with its text for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreSource {
    /// sched_setaffinity(2), cpusets.
    Affinity { list: String },
    /// A cgroup quota: the file and its content.
    Quota { file: PathBuf, text: String },
    /// An environment variable of Slurm.
    Slurm { variable: &'static str },
}

impl fmt::Display for CoreSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affinity { list } => write!(f, "the process is bound to cores {list}"),
            Self::Quota { file, text } => {
                write!(f, "the cgroup's quota, {}: {text}", file.display())
            }
            Self::Slurm { variable } => write!(f, "{variable}"),
        }
    }
}

impl Cores {
    pub fn of(host: &Host) -> Self {
        let status = host.read("/proc/self/status").unwrap_or_default();
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let affinity = list.and_then(|list| {
            Some(CoreLimit {
                cores: count_list(list)?,
                source: CoreSource::Affinity {
                    list: list.trim().to_owned(),
                },
            })
        });
        let slurm = slurm_cores(host);
        let limits = affinity.into_iter().chain(quotas(host)).chain(slurm);
        Self {
            machine: machine_cores(host),
            limits: limits.collect(),
        }
    }

    /// The tightest limit (the first, if several are equal); `None` without limits.
    pub fn tightest(&self) -> Option<&CoreLimit> {
        self.limits.iter().min_by_key(|limit| limit.cores)
    }

    /// Usable cores, if known.
    pub fn usable(&self) -> Option<usize> {
        let limit = self.tightest().map(|limit| limit.cores);
        match (self.machine, limit) {
            (Some(machine), Some(limit)) => Some(machine.min(limit)),
            (machine, limit) => machine.or(limit),
        }
    }
}

/// Online cores.
fn machine_cores(host: &Host) -> Option<usize> {
    let online = host.read("/sys/devices/system/cpu/online");
    let online = online.and_then(|list| count_list(&list));
    online.or_else(|| {
        let stat = host.read("/proc/stat")?;
        let is_core = |line: &&str| {
            let number = line.strip_prefix("cpu");
            number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        Some(stat.lines().filter(is_core).count()).filter(|count| *count > 0)
    })
}

/// Number of entries in a list such as `0-3,8`; `None` if it is not such a list.
fn count_list(list: &str) -> Option<usize> {
    let mut count = 0usize;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

/// `SLURM_CPUS_PER_TASK`: without task affinity, clusters enforce it in no other way. Ignored unless positive.
fn slurm_cores(host: &Host) -> Option<CoreLimit> {
    let variable = "SLURM_CPUS_PER_TASK";
    let cores: usize = host.variable(variable)?.trim().parse().ok()?;
    (cores > 0).then_some(CoreLimit {
        cores,
        source: CoreSource::Slurm { variable },
    })
}

/// The quotas of this process's cgroup and its ancestors, in v1 and v2.
///
/// A quota of 1.5 cores counts as 1, as in the standard library: with 2 threads the kernel would throttle the whole
/// process for the rest of each period.
fn quotas(host: &Host) -> Vec<CoreLimit> {
    let read = |file: PathBuf| Some((std::fs::read_to_string(&file).ok()?, file));
    let v2 = cgroup::folders(host, Hierarchy::Unified).into_iter();
    let v2 = v2.filter_map(|folder| read(folder.join("cpu.max")));
    let v1 = cgroup::folders(host, Hierarchy::Controller("cpu")).into_iter();
    let v1 = v1.filter_map(|folder| {
        let (quota, file) = read(folder.join("cpu.cfs_quota_us"))?;
        let (period, _) = read(folder.join("cpu.cfs_period_us"))?;
        Some((format!("{} {}", quota.trim(), period.trim()), file))
    });
    let known = v2.chain(v1).filter_map(|(text, file)| {
        Some(CoreLimit {
            cores: whole_cores(&text)?,
            source: CoreSource::Quota {
                file: host.shown(&file),
                text: text.trim().to_owned(),
            },
        })
    });
    known.collect()
}

/// Converts "quota period" (in microseconds) to whole cores, at least 1; `None` without a limit ("max period" in v2,
/// "-1 period" in v1).
fn whole_cores(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace();
    let quota: usize = words.next()?.parse().ok()?;
    let period: usize = words.next()?.parse().ok()?;
    Some(quota.checked_div(period)?.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::host::fake_host;

    const V2: &str =
        "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    /// A machine with these files, cgroups and mounts.
    fn machine(groups: &str, mounts: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let own = [
            ("proc/self/cgroup", groups),
            ("proc/self/mountinfo", mounts),
        ];
        fake_host(&[&own, files].concat())
    }

    fn quota(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<usize> {
        let (_root, host) = machine(groups, mounts, files);
        quotas(&host).iter().map(|limit| limit.cores).min()
    }

    #[test]
    fn quotas_round_down_to_at_least_one_core() {
        for (text, cores) in [
            ("400000 100000\n", Some(4)),
            ("150000 100000\n", Some(1)),
            ("399999 100000\n", Some(3)),
            ("50000 100000\n", Some(1)),
            ("max 100000\n", None),
            ("-1 100000", None),
            ("100000 0\n", None),
            ("100000\n", None),
            ("", None),
        ] {
            assert_eq!(whole_cores(text), cores, "{text:?}");
        }
    }

    #[test]
    fn the_tightest_ancestor_counts() {
        let files = [
            ("sys/fs/cgroup/slurm/job_7/step_0/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/slurm/job_7/cpu.max", "350000 100000\n"),
            ("sys/fs/cgroup/slurm/cpu.max", "6400000 100000\n"),
            ("sys/fs/cgroup/other/cpu.max", "100000 100000\n"),
            // Above the mount: not a group.
            ("sys/fs/cpu.max", "100000 100000\n"),
        ];
        let of = |group: &str| quota(&format!("0::{group}\n"), V2, &files);
        assert_eq!(of("/slurm/job_7/step_0"), Some(3));
        assert_eq!(of("/slurm/job_8"), Some(64));
        assert_eq!(of("/"), None);
        assert_eq!(of("/../other"), None);
    }

    #[test]
    fn containers_in_the_hosts_cgroup_namespace_see_their_quota_at_the_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            900 800 0:27 /kubepods/pod1/c1 /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
        let files = [("sys/fs/cgroup/cpu.max", "200000 100000\n")];
        let of = |group: &str| quota(&format!("0::{group}\n"), mounts, &files);
        assert_eq!(of("/kubepods/pod1/c1"), Some(2));
        // A bind mount of another group is irrelevant.
        assert_eq!(of("/kubepods/pod1/c10"), None);
    }

    #[test]
    fn hierarchies_mounted_elsewhere_and_of_v1_are_found() {
        let mounts = "41 31 0:38 / /mnt/my\\040groups rw,relatime - cgroup2 cgroup2 rw\n";
        let files = [("mnt/my groups/a/cpu.max", "500000 100000\n")];
        assert_eq!(quota("0::/a/b\n", mounts, &files), Some(5));
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        let folder = "sys/fs/cgroup/cpu/docker/c1";
        let period = format!("{folder}/cpu.cfs_period_us");
        for (text, cores) in [("250000\n", Some(2)), ("-1\n", None)] {
            let file = format!("{folder}/cpu.cfs_quota_us");
            let files = [(file.as_str(), text), (period.as_str(), "100000\n")];
            let found = quota("3:cpuacct,cpu:/docker/c1\n", mounts, &files);
            assert_eq!(found, cores, "{text}");
        }
    }

    #[test]
    fn the_tightest_limit_counts_and_names_its_source() {
        let files = [
            ("sys/devices/system/cpu/online", "0-63\n"),
            (
                "proc/self/status",
                "Name:\tctseg\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,8-15\n",
            ),
            ("sys/fs/cgroup/cpu.max", "800000 100000\n"),
        ];
        let (_root, host) = machine("0::/\n", V2, &files);
        let of = |variables: &[(&str, &str)]| {
            let cores = Cores::of(&host.clone().with_variables(variables));
            assert_eq!(cores.machine, Some(64));
            let tightest = cores.tightest().unwrap();
            assert_eq!(cores.usable(), Some(tightest.cores));
            (tightest.cores, tightest.source.to_string())
        };
        let quota = "the cgroup's quota, /sys/fs/cgroup/cpu.max: 800000 100000";
        assert_eq!(of(&[]), (8, quota.to_owned()));
        let slurm = |text| of(&[("SLURM_CPUS_PER_TASK", text)]);
        assert_eq!(slurm("4\n"), (4, "SLURM_CPUS_PER_TASK".to_owned()));
        for nonsense in ["0", "-2", "2(x3)", "128"] {
            assert_eq!(slurm(nonsense).0, 8, "{nonsense}");
        }
    }

    #[test]
    fn lists_of_cores_are_counted() {
        for (list, count) in [
            ("0", Some(1)),
            ("0-3,8\n", Some(5)),
            (" 0-127", Some(128)),
            ("", None),
            ("3-1", None),
            ("0-18446744073709551615", None),
            ("a-b", None),
        ] {
            assert_eq!(count_list(list), count, "{list:?}");
        }
        // Without /sys, from /proc/stat.
        let stat = "cpu  1 2\ncpu0 1 2\ncpu1 1 2\nintr 5\n";
        let (_root, host) = machine("", "", &[("proc/stat", stat)]);
        assert_eq!(machine_cores(&host), Some(2));
    }
}
