//! Cores, memory and jobs of simulated machines, and of a real cgroup where it may be created.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Report, assert_contains, doctor};

/// `/proc`, `/sys` and `/dev` of a machine.
pub struct Machine {
    pub root: tempfile::TempDir,
}

impl Machine {
    /// 64 cores, 256 GB, no limits, no GPU.
    pub fn large() -> Self {
        let root = tempfile::tempdir().unwrap();
        let machine = Self { root };
        machine.write("/sys/devices/system/cpu/online", "0-63\n");
        machine.write(
            "/proc/self/status",
            "Name:\tctseg\nCpus_allowed_list:\t0-63\n",
        );
        machine.write(
            "/proc/meminfo",
            "MemTotal:       250000000 kB\nMemAvailable:   240000000 kB\n",
        );
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max open files            1048576              1048576              files     \n\
            Max address space         unlimited            unlimited            bytes     \n";
        machine.write("/proc/self/limits", limits);
        machine.write("/proc/self/cgroup", "0::/\n");
        machine.write(
            "/proc/self/mountinfo",
            "24 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
        );
        machine
    }

    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.path().join(absolute.trim_start_matches('/'))
    }

    pub fn write(&self, absolute: &str, text: &str) {
        let path = self.path(absolute);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs doctor on this machine, in an empty folder.
    fn report(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let mut command = doctor(folder.path(), &["--quick", "--device", "flex"]);
        command
            .args(arguments)
            .env("CTSEG_DOCTOR_ROOT", self.root.path());
        command.envs(variables.iter().copied());
        Report::run(&mut command)
    }
}

#[test]
fn a_large_machine_has_no_faults() {
    let report = Machine::large().report(&[], &[]);
    assert!(report.only("cores", "ok").starts_with("64 of 64"));
    assert_contains(
        &report.only("memory", "ok"),
        &["238.4 GiB", "228.9 GiB available"],
    );
    assert_contains(&report.only("GPU", "ok"), &["no NVIDIA GPU"]);
    assert_contains(&report.only("open files", "ok"), &["1048576"]);
}

#[test]
fn two_usable_cores_of_64_are_reported_with_the_limit() {
    let unified = Machine::large();
    unified.write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    let report = unified.report(&[], &[]);
    let expected = ["2 of 64", "/sys/fs/cgroup/cpu.max: 200000 100000"];
    assert_contains(&report.only("cores", "note"), &expected);
    let facts = &report.all("cores")[0]["facts"];
    assert_eq!(
        (&facts["machine"], &facts["usable"]),
        (&64.into(), &2.into())
    );

    let divided = Machine::large();
    divided.write(
        "/proc/self/cgroup",
        "7:memory:/docker/c1\n3:cpu,cpuacct:/docker/c1\n",
    );
    let mounts =
        "33 24 0:29 /docker/c1 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";
    divided.write("/proc/self/mountinfo", mounts);
    divided.write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n");
    divided.write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    let report = divided.report(&[], &[]);
    let expected = [
        "2 of 64",
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us: 250000 100000",
    ];
    assert_contains(&report.only("cores", "note"), &expected);

    let report = Machine::large().report(&[], &[("SLURM_CPUS_PER_TASK", "4")]);
    assert_contains(
        &report.only("cores", "note"),
        &["4 of 64: SLURM_CPUS_PER_TASK"],
    );
}

#[test]
fn more_threads_than_cores_are_a_warning() {
    let machine = Machine::large();
    machine.write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    let by_flag = machine.report(&["--threads", "8"], &[]);
    let by_variable = machine.report(&[], &[("CTSEG_THREADS", "8")]);
    for report in [by_flag, by_variable] {
        let warning = report.only("threads", "warning");
        assert_contains(
            &warning,
            &[
                "is 8, but the limit is 2 cores",
                "use 2",
                "the CPU quota throttles",
            ],
        );
        report.assert_faults(&[]);
    }
    let enough = machine.report(&["--threads", "2"], &[("CTSEG_LOADER_THREADS", "3")]);
    assert_contains(
        &enough.only("threads", "warning"),
        &["CTSEG_LOADER_THREADS is 3"],
    );
    let report = machine.report(&["--threads", "0"], &[]);
    let fault = report.all("settings")[1].to_string();
    assert_contains(&fault, &["fault", "--threads 0", "expected 1 to"]);
}

#[test]
fn little_memory_is_reported_with_its_limit() {
    let machine = Machine::large();
    machine.write("/sys/fs/cgroup/memory.max", "1073741824\n");
    machine.write("/sys/fs/cgroup/memory.current", "268435456\n");
    let warning = machine.report(&[], &[]).only("memory", "warning");
    let expected = [
        "1.0 GiB of 238.4 GiB",
        "/sys/fs/cgroup/memory.max",
        "768.0 MiB available",
    ];
    assert_contains(&warning, &expected);
    assert_contains(
        &warning,
        &["docker run --memory", "resources.limits.memory"],
    );

    let job = [("SLURM_MEM_PER_CPU", "500"), ("SLURM_CPUS_ON_NODE", "2")];
    let warning = Machine::large().report(&[], &job).only("memory", "warning");
    assert_contains(
        &warning,
        &[
            "1000.0 MiB of",
            "SLURM_MEM_PER_CPU=500 (MB) × SLURM_CPUS_ON_NODE=2",
            "--mem=16G",
        ],
    );

    let busy = Machine::large();
    busy.write(
        "/proc/meminfo",
        "MemTotal:       250000000 kB\nMemAvailable:   1000000 kB\n",
    );
    assert_contains(
        &busy.report(&[], &[]).only("memory", "warning"),
        &["976.6 MiB available", "stop some"],
    );
}

#[test]
fn process_limits_are_reported() {
    let machine = Machine::large();
    let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max open files            256                  4096                 files     \n\
        Max address space         4294967296           unlimited            bytes     \n";
    machine.write("/proc/self/limits", limits);
    let report = machine.report(&[], &[]);
    assert_contains(
        &report.only("open files", "warning"),
        &["256 at a time", "ulimit -n 4096"],
    );
    assert_contains(
        &report.only("addresses", "warning"),
        &["4.0 GiB", "ulimit -v unlimited"],
    );
}

#[test]
fn jobs_are_reported_with_the_remaining_time() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let job = |seconds: u64| {
        let end = (now + seconds).to_string();
        let variables = [
            ("SLURM_JOB_ID", "4711"),
            ("SLURM_ARRAY_TASK_ID", "3"),
            ("SLURM_JOB_END_TIME", end.as_str()),
        ];
        Machine::large().report(&[], &variables)
    };
    let long = job(7_530).only("job", "ok");
    assert_contains(&long, &["Slurm job 4711, array task 3", "2 h 05 min left"]);
    assert_contains(
        &job(100).only("job", "warning"),
        &["1 min left", "exit code 75"],
    );
    let pod = [
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("HOSTNAME", "predict-3-x2b7"),
    ];
    let report = Machine::large().report(&[], &pod);
    assert_contains(
        &report.only("container", "ok"),
        &["Kubernetes pod: predict-3-x2b7"],
    );
}

/// A real cgroup, removed on drop.
struct Group(PathBuf);

impl Group {
    /// Creates a cgroup below that of this process; `None` if that is not permitted.
    fn create(controller: &str, file: &str, value: &str) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = groups.lines().find_map(|line| {
            let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
            controllers
                .split(',')
                .any(|one| one == controller)
                .then(|| group.to_owned())
        })?;
        let mount = Path::new("/sys/fs/cgroup").join(controller);
        let folder = mount
            .join(own.trim_start_matches('/'))
            .join(format!("ctseg-test-{}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let group = Self(folder);
        fs::write(group.0.join(file), value).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn limits_of_real_cgroups_are_respected() {
    let cores = Group::create("cpu", "cpu.cfs_quota_us", "100000");
    let memory = Group::create("memory", "memory.limit_in_bytes", "1610612736");
    let (Some(cores), Some(memory)) = (&cores, &memory) else {
        println!("skipped: cgroups (version 1) cannot be created here");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let inner = doctor(folder.path(), &["--quick", "--device", "flex"]);
    let mut command = Command::new("sh");
    command
        .current_dir(folder.path())
        .args(["-c", "for group in \"$0\" \"$1\"; do echo $$ >\"$group/cgroup.procs\" || exit 9; done; shift; exec \"$@\""])
        .args([&cores.0, &memory.0])
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let report = Report::run(&mut command);
    let quota = report.all("cores")[0];
    assert_eq!(quota["facts"]["usable"], 1, "{quota:#}");
    assert_contains(
        &report.only("memory", "warning"),
        &["1.5 GiB", "memory.limit_in_bytes"],
    );
}
