//! Process IDs that are unique on storage shared by several machines.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// A process. Its text, `<machine>-<pid>-<start>`, is valid in file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessId {
    /// Differs between machines, boots, and containers with separate PID namespaces.
    machine: String,
    pid: u32,
    /// Start time in clock ticks since boot, since PIDs are reused.
    start: u64,
}

static CURRENT: LazyLock<ProcessId> = LazyLock::new(|| {
    let pid = std::process::id();
    ProcessId {
        machine: machine(),
        pid,
        start: start_time(pid).flatten().unwrap_or(0),
    }
});

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.machine, self.pid, self.start)
    }
}

impl ProcessId {
    pub fn current() -> &'static Self {
        &CURRENT
    }

    /// Parses the text written by [`fmt::Display`].
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let id = Self {
            machine: parts.next()?.to_owned(),
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && id.machine.len() == 8).then_some(id)
    }

    /// Whether it still runs. `None` if that cannot be seen from here: on another machine, before a reboot, or if the
    /// file that names it belongs to another user (`owner`), whose processes may be hidden.
    pub fn is_alive(&self, owner: u32) -> Option<bool> {
        if self.machine != CURRENT.machine || fs::metadata("/proc/self").ok()?.uid() != owner {
            return None;
        }
        Some(start_time(self.pid)? == Some(self.start))
    }
}

/// Start time of a process on this machine: `None` if unknown, `Some(None)` if there is no such process or it is a
/// zombie.
fn start_time(pid: u32) -> Option<Option<u64>> {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return fs::exists("/proc/self/stat").ok()?.then_some(None);
    };
    // proc_pid_stat(5): the name, in parentheses, may contain anything; state is field 3, the start time field 22.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return Some(None);
    }
    fields.nth(18)?.parse().ok().map(Some)
}

fn machine() -> String {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let container = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let known = format!(
        "{}\n{}\n{}",
        text("/proc/sys/kernel/hostname"),
        text("/proc/sys/kernel/random/boot_id"),
        container.display()
    );
    format!("{:x}", Sha256::digest(known))[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends() {
        let owner = fs::metadata("/proc/self").unwrap().uid();
        let own = ProcessId::current();
        assert_eq!(ProcessId::parse(&own.to_string()).as_ref(), Some(own));
        assert_eq!(own.is_alive(owner), Some(true));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let other = ProcessId {
            pid: child.id(),
            start: start_time(child.id()).unwrap().unwrap(),
            ..own.clone()
        };
        assert_eq!(other.is_alive(owner), Some(true));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(other.is_alive(owner), Some(false));
        // The same PID, reused.
        let again = ProcessId {
            start: own.start + 1,
            ..own.clone()
        };
        assert_eq!(again.is_alive(owner), Some(false));
        let elsewhere = ProcessId {
            machine: "01234567".to_owned(),
            ..other
        };
        assert_eq!(elsewhere.is_alive(owner), None);
        assert_eq!(own.is_alive(owner + 1), None);
        for wrong in ["", "0123", "01234567-1", "01234567-1-2-3", "01234567-x-2"] {
            assert_eq!(ProcessId::parse(wrong), None, "{wrong}");
        }
    }
}
