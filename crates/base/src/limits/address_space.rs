//! `RLIMIT_AS`, which limits mapped memory, resident or not.

use super::host::Host;

/// Mapped bytes of this process, and their limit.
pub(super) fn address_space(host: &Host) -> Option<[u64; 2]> {
    let limits = host.read("/proc/self/limits")?;
    let mut lines = limits.lines();
    let limit = lines.find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
    let status = host.read("/proc/self/status")?;
    let mapped = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))?;
    let kilobytes: u64 = mapped.split_whitespace().next()?.parse().ok()?;
    Some([kilobytes.saturating_mul(1024), limit])
}
