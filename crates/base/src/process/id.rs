//! Names of processes that hold on storage which several machines share: on which kernel, which process there.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// One process. Its text, `<machine>-<pid>-<start>`, is fit for file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessId {
    /// Differs between machines, their boots, and containers that do not see each other's processes.
    machine: String,
    pid: u32,
    /// Clock ticks from boot to its start: numbers of processes are used again.
    start: u64,
}

static OWN: LazyLock<ProcessId> = LazyLock::new(|| {
    let pid = std::process::id();
    ProcessId {
        machine: machine(),
        pid,
        start: started(pid).flatten().unwrap_or(0),
    }
});

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.machine, self.pid, self.start)
    }
}

impl ProcessId {
    /// This process.
    pub fn own() -> &'static Self {
        &OWN
    }

    /// The process of a text as [`fmt::Display`] writes it; none for other texts.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let id = Self {
            machine: parts.next()?.to_owned(),
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && id.machine.len() == 8).then_some(id)
    }

    /// Whether it still runs; none where that cannot be seen from here: on another machine, before a reboot, or
    /// where the file that names it is another user's (`owner`), whose processes may be hidden.
    pub fn is_alive(&self, owner: u32) -> Option<bool> {
        if self.machine != OWN.machine || fs::metadata("/proc/self").ok()?.uid() != owner {
            return None;
        }
        Some(started(self.pid)? == Some(self.start))
    }
}

/// When a process of this machine started: none where the system does not tell, `Some(None)` if there is no
/// such process, or only what is left of one until its parent has asked for it.
fn started(pid: u32) -> Option<Option<u64>> {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return fs::exists("/proc/self/stat").ok()?.then_some(None);
    };
    // proc_pid_stat(5): the name, in brackets, may hold anything; state is the 3rd and start the 22nd field.
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
        let own = ProcessId::own();
        assert_eq!(ProcessId::parse(&own.to_string()).as_ref(), Some(own));
        assert_eq!(own.is_alive(owner), Some(true));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let other = ProcessId {
            pid: child.id(),
            start: started(child.id()).unwrap().unwrap(),
            ..own.clone()
        };
        assert_eq!(other.is_alive(owner), Some(true));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(other.is_alive(owner), Some(false));
        // The same number, used again.
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
