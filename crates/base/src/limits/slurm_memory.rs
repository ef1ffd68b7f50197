//! The memory that Slurm grants a job on a node.

use super::host::Host;

/// Slurm counts memory in MB of 2^20 bytes.
const SLURM_MB: u64 = 1 << 20;

/// Bytes that the job may use on this node, and the variables that set them; `None` for the whole node (`0`).
pub(super) fn slurm_memory(host: &Host) -> Option<(u64, String)> {
    let number = |name: &str| first_number(&host.variable(name)?);
    if let Some(mb) = number("SLURM_MEM_PER_NODE") {
        let text = format!("SLURM_MEM_PER_NODE={mb} (MB)");
        return (mb > 0).then(|| (mb.saturating_mul(SLURM_MB), text));
    }
    let per = |each: &str, counts: &[&str]| {
        let mb = number(each).filter(|mb| *mb > 0)?;
        let count = counts.iter().find_map(|name| Some((name, number(name)?)));
        let (name, count) = count.filter(|(_, count)| *count > 0)?;
        let text = format!("{each}={mb} (MB) × {name}={count}");
        Some((mb.saturating_mul(count).saturating_mul(SLURM_MB), text))
    };
    let cpus = [
        "SLURM_CPUS_ON_NODE",
        "SLURM_JOB_CPUS_PER_NODE",
        "SLURM_CPUS_PER_TASK",
    ];
    per("SLURM_MEM_PER_CPU", &cpus).or_else(|| per("SLURM_MEM_PER_GPU", &["SLURM_GPUS_ON_NODE"]))
}

/// `16` from `16`, and from `16(x3),8`: the value of the first node.
fn first_number(text: &str) -> Option<u64> {
    let digits = text.trim().split(['(', ',']).next()?;
    digits.parse().ok()
}
