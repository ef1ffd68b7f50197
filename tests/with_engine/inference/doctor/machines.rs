//! Cores, memory, jobs: of machines that are made up, and of a cgroup that is made where that is allowed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Said, doctor, says};

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

    /// What the doctor says of it, from an empty folder.
    fn looked_at(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        let folder = tempfile::tempdir().unwrap();
        let mut command = doctor(folder.path(), &["--quick", "--device", "flex"]);
        command
            .args(arguments)
            .env("CTSEG_DOCTOR_ROOT", self.root.path());
        command.envs(variables.iter().copied());
        Said::by(&mut command)
    }
}

#[test]
fn nothing_is_wrong_with_a_large_machine() {
    let said = Machine::large().looked_at(&[], &[]);
    assert!(said.only("cores", "ok").starts_with("64 of 64"));
    says(
        &said.only("memory", "ok"),
        &["238.4 GiB", "228.9 GiB available"],
    );
    says(&said.only("GPU", "ok"), &["no NVIDIA GPU"]);
    says(&said.only("open files", "ok"), &["1048576"]);
}

#[test]
fn two_cores_of_64_are_told_with_what_allows_no_more() {
    let unified = Machine::large();
    unified.write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    let said = unified.looked_at(&[], &[]);
    let expected = ["2 of 64", "/sys/fs/cgroup/cpu.max: 200000 100000"];
    says(&said.only("cores", "note"), &expected);
    let facts = &said.all("cores")[0]["facts"];
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
    let said = divided.looked_at(&[], &[]);
    let expected = [
        "2 of 64",
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us: 250000 100000",
    ];
    says(&said.only("cores", "note"), &expected);

    let said = Machine::large().looked_at(&[], &[("SLURM_CPUS_PER_TASK", "4")]);
    says(
        &said.only("cores", "note"),
        &["4 of 64: SLURM_CPUS_PER_TASK"],
    );
}

#[test]
fn more_threads_than_cores_are_a_warning() {
    let machine = Machine::large();
    machine.write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    let by_flag = machine.looked_at(&["--threads", "8"], &[]);
    let by_variable = machine.looked_at(&[], &[("CTSEG_THREADS", "8")]);
    for said in [by_flag, by_variable] {
        let told = said.only("threads", "warning");
        says(
            &told,
            &[
                "is 8, but the limit is 2 cores",
                "use 2",
                "the CPU quota throttles",
            ],
        );
        said.wrong_only(&[]);
    }
    let enough = machine.looked_at(&["--threads", "2"], &[("CTSEG_LOADER_THREADS", "3")]);
    says(
        &enough.only("threads", "warning"),
        &["CTSEG_LOADER_THREADS is 3"],
    );
    let said = machine.looked_at(&["--threads", "0"], &[]);
    let fault = said.all("settings")[1].to_string();
    says(&fault, &["fault", "--threads 0", "expected 1 to"]);
}

#[test]
fn little_memory_is_told_with_what_allows_no_more() {
    let machine = Machine::large();
    machine.write("/sys/fs/cgroup/memory.max", "1073741824\n");
    machine.write("/sys/fs/cgroup/memory.current", "268435456\n");
    let told = machine.looked_at(&[], &[]).only("memory", "warning");
    let expected = [
        "1.0 GiB of 238.4 GiB",
        "/sys/fs/cgroup/memory.max",
        "768.0 MiB available",
    ];
    says(&told, &expected);
    says(&told, &["docker run --memory", "resources.limits.memory"]);

    let job = [("SLURM_MEM_PER_CPU", "500"), ("SLURM_CPUS_ON_NODE", "2")];
    let told = Machine::large()
        .looked_at(&[], &job)
        .only("memory", "warning");
    says(
        &told,
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
    says(
        &busy.looked_at(&[], &[]).only("memory", "warning"),
        &["976.6 MiB available", "stop some"],
    );
}

#[test]
fn limits_of_the_process_are_told() {
    let machine = Machine::large();
    let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max open files            256                  4096                 files     \n\
        Max address space         4294967296           unlimited            bytes     \n";
    machine.write("/proc/self/limits", limits);
    let said = machine.looked_at(&[], &[]);
    says(
        &said.only("open files", "warning"),
        &["256 at a time", "ulimit -n 4096"],
    );
    says(
        &said.only("addresses", "warning"),
        &["4.0 GiB", "ulimit -v unlimited"],
    );
}

#[test]
fn jobs_are_told_with_the_time_that_is_left() {
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
        Machine::large().looked_at(&[], &variables)
    };
    let long = job(7_530).only("job", "ok");
    says(&long, &["Slurm job 4711, array task 3", "2 h 05 min left"]);
    says(
        &job(100).only("job", "warning"),
        &["1 min left", "exit code 75"],
    );
    let pod = [
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("HOSTNAME", "predict-3-x2b7"),
    ];
    let said = Machine::large().looked_at(&[], &pod);
    says(
        &said.only("container", "ok"),
        &["Kubernetes pod: predict-3-x2b7"],
    );
}

/// A group of the kernel's own; removed when it is dropped.
struct Group(PathBuf);

impl Group {
    /// Below this process's own; none where that is not allowed.
    fn made(controller: &str, file: &str, value: &str) -> Option<Self> {
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
fn groups_of_this_machines_kernel_are_heeded() {
    let cores = Group::made("cpu", "cpu.cfs_quota_us", "100000");
    let memory = Group::made("memory", "memory.limit_in_bytes", "1610612736");
    let (Some(cores), Some(memory)) = (&cores, &memory) else {
        println!("left out: cgroups (version 1) cannot be made here");
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
    let said = Said::by(&mut command);
    let quota = said.all("cores")[0];
    assert_eq!(quota["facts"]["usable"], 1, "{quota:#}");
    says(
        &said.only("memory", "warning"),
        &["1.5 GiB", "memory.limit_in_bytes"],
    );
}
