//! Limits of the process itself: `ulimit`.

use super::Finding;
use ctseg_base::limits::host::Host;
use ctseg_base::text::bytes::binary;

/// Batches, their outputs and the libraries of the engine need many open files.
const LOW_FILES: u64 = 1024;

pub fn findings(host: &Host) -> Vec<Finding> {
    let Some(limits) = host.read("/proc/self/limits") else {
        return Vec::new();
    };
    let files = soft(&limits, "Max open files").map(|files| match files {
        Limited::To(files) if files < LOW_FILES => Finding::warning(
            "open files",
            format!("{files} at a time (ulimit -n)"),
            "raise it: ulimit -n 4096, LimitNOFILE= in systemd units, docker run --ulimit nofile=4096",
        ),
        Limited::To(files) => Finding::ok("open files", format!("{files} at a time")),
        Limited::Not => Finding::ok("open files", "unlimited"),
    });
    // libtorch reserves far more address space than it uses memory, especially for GPUs.
    let addresses = soft(&limits, "Max address space").and_then(|limit| match limit {
        Limited::To(bytes) => Some(Finding::warning(
            "addresses",
            format!("{} at most (ulimit -v)", binary(bytes)),
            "includes reserved address space, which is far more than the memory in use: ulimit -v unlimited",
        )),
        Limited::Not => None,
    });
    files.into_iter().chain(addresses).collect()
}

enum Limited {
    To(u64),
    Not,
}

/// The soft limit of this name in `/proc/self/limits` (proc_pid_limits(5)).
fn soft(limits: &str, name: &str) -> Option<Limited> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(Limited::Not),
        number => number.parse().ok().map(Limited::To),
    }
}
