//! The job or container of this process.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Finding;
use ctseg_base::limits::host::Host;

const CHECK: &str = "job";

/// The time left should be enough for a volume, or for a few steps and a checkpoint.
const LOW_SECONDS: u64 = 300;

/// Facts of a Slurm job, with their variables.
const SLURM: [(&str, &str); 6] = [
    ("step", "SLURM_STEP_ID"),
    ("array task", "SLURM_ARRAY_TASK_ID"),
    ("partition", "SLURM_JOB_PARTITION"),
    ("node", "SLURMD_NODENAME"),
    ("restarts", "SLURM_RESTART_COUNT"),
    ("GPUs", "SLURM_JOB_GPUS"),
];

/// The container runtime, if it is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    Kubernetes,
    Docker,
    Podman,
    Apptainer,
}

impl Container {
    /// `None` outside of containers and in unrecognised ones.
    pub fn of(host: &Host) -> Option<Self> {
        let is_set = |name: &str| host.variable(name).is_some();
        if is_set("KUBERNETES_SERVICE_HOST") {
            Some(Self::Kubernetes)
        } else if is_set("APPTAINER_CONTAINER") || is_set("SINGULARITY_CONTAINER") {
            Some(Self::Apptainer)
        } else if host.path("/run/.containerenv").exists() {
            Some(Self::Podman)
        } else if host.path("/.dockerenv").exists() {
            Some(Self::Docker)
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "Kubernetes pod",
            Self::Docker => "Docker container",
            Self::Podman => "Podman container",
            Self::Apptainer => "Apptainer container",
        }
    }
}

pub fn findings(host: &Host, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(slurm(host, now));
    for (name, variable) in [("PBS", "PBS_JOBID"), ("LSF", "LSB_JOBID")] {
        let job = host.variable(variable);
        findings.extend(job.map(|job| Finding::ok(CHECK, format!("{name} job {job}"))));
    }
    findings.extend(Container::of(host).map(|container| {
        let pod = host
            .variable("POD_NAME")
            .or_else(|| host.variable("HOSTNAME"));
        let pod = pod.filter(|_| container == Container::Kubernetes);
        let pod = pod.map_or_else(String::new, |pod| format!(": {pod}"));
        Finding::ok("container", format!("{}{pod}", container.name()))
    }));
    findings
}

fn slurm(host: &Host, now: SystemTime) -> Option<Finding> {
    let mut found = format!("Slurm job {}", host.variable("SLURM_JOB_ID")?);
    for (name, variable) in SLURM {
        if let Some(value) = host.variable(variable) {
            found += &format!(", {name} {value}");
        }
    }
    let end = host.variable("SLURM_JOB_END_TIME");
    let end: Option<u64> = end.and_then(|text| text.trim().parse().ok());
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = end.map(|end| end.saturating_sub(now));
    let Some(left) = left else {
        return Some(Finding::ok(CHECK, found));
    };
    found += &format!(", {} left", hours(left));
    Some(match left < LOW_SECONDS {
        true => Finding::warning(
            CHECK,
            found,
            "unfinished work continues in the next job (exit code 75); request more with --time",
        ),
        false => Finding::ok(CHECK, found),
    })
}

/// `2 h 05 min`, `4 min`.
fn hours(seconds: u64) -> String {
    let minutes = seconds / 60;
    match minutes / 60 {
        0 => format!("{minutes} min"),
        hours => format!("{hours} h {:02} min", minutes % 60),
    }
}
