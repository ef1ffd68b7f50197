//! Limits of the process itself: `ulimit`.

use super::Finding;
use ctseg_base::limits::host::Host;

/// Every case of a batch, its outputs and the engine's libraries have files open.
const FEW_FILES: u64 = 1024;

pub fn findings(host: &Host) -> Vec<Finding> {
    let Some(limits) = host.read("/proc/self/limits") else {
        return Vec::new();
    };
    let files = soft(&limits, "Max open files").map(|files| match files {
        Limited::To(files) if files < FEW_FILES => Finding::warning(
            "open files",
            format!("{files} at a time (ulimit -n)"),
            "raise it: ulimit -n 4096, LimitNOFILE= in systemd's units, --ulimit nofile=4096 of docker run",
        ),
        Limited::To(files) => Finding::ok("open files", format!("{files} at a time")),
        Limited::Not => Finding::ok("open files", "without limit"),
    });
    // libtorch reserves far more addresses than it takes memory, the more so for GPUs.
    let addresses = soft(&limits, "Max address space").and_then(|limit| match limit {
        Limited::To(bytes) => Some(Finding::warning(
            "addresses",
            format!("{} at most (ulimit -v)", super::binary(bytes)),
            "reserved addresses count too, which are many more than memory in use: ulimit -v unlimited",
        )),
        Limited::Not => None,
    });
    files.into_iter().chain(addresses).collect()
}

enum Limited {
    To(u64),
    Not,
}

/// The soft limit in the line of this name in `/proc/self/limits` (proc_pid_limits(5)).
fn soft(limits: &str, name: &str) -> Option<Limited> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(Limited::Not),
        number => number.parse().ok().map(Limited::To),
    }
}
