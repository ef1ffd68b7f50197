//! The process that works on a folder, recorded in the folder's files, so that others on the same storage can check
//! whether it still runs.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::id::ProcessId;
use super::scheduler_job::Job;

/// A process, with details for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// [`ProcessId`] as text.
    pub process: String,
    pub host: String,
    pub pid: u32,
    /// The scheduler's job, see [`Job::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
}

/// Whether a process without a recorded end still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    Alive,
    /// The process does not exist.
    Dead,
    /// The process is on another machine, and its last heartbeat is this old.
    Expired(Duration),
    /// The process is on another machine, and its last heartbeat is this far in the future: with a wrong clock it would
    /// seem alive forever.
    ClockAhead(Duration),
}

impl Liveness {
    /// See [`Worker::liveness`]; without a process, only the heartbeat counts.
    pub fn of(
        process: Option<&ProcessId>,
        owner: u32,
        heartbeat: LastHeartbeat,
        expiry: Duration,
    ) -> Self {
        match process.and_then(|process| process.is_alive(owner)) {
            Some(true) => return Self::Alive,
            Some(false) => return Self::Dead,
            None => {}
        }
        match heartbeat.now.duration_since(heartbeat.at) {
            Ok(age) if age > expiry => Self::Expired(age),
            Err(ahead) if ahead.duration() > expiry => Self::ClockAhead(ahead.duration()),
            _ => Self::Alive,
        }
    }
}

/// The time of the last heartbeat, and the current time.
#[derive(Debug, Clone, Copy)]
pub struct LastHeartbeat {
    pub at: SystemTime,
    pub now: SystemTime,
}

impl Worker {
    pub fn current() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let Job { id, rank } = Job::current().clone();
        Self {
            process: ProcessId::current().to_string(),
            host: host.trim().to_owned(),
            pid: std::process::id(),
            job: id,
            rank,
        }
    }

    /// Whether it still runs; `owner` is the user ID of the file that names it. A process on another machine counts as
    /// alive until `expiry` after its last `heartbeat`, unless that is further than `expiry` in the future.
    pub fn liveness(&self, owner: u32, heartbeat: LastHeartbeat, expiry: Duration) -> Liveness {
        let process = ProcessId::parse(&self.process);
        Liveness::of(process.as_ref(), owner, heartbeat, expiry)
    }

    /// `gpu07, process 4711, job 70_3`.
    pub fn described(&self) -> String {
        let mut text = format!("{}, process {}", self.host, self.pid);
        if let Some(job) = &self.job {
            text += &format!(", job {job}");
        }
        if let Some(rank) = self.rank {
            text += &format!(", rank {rank}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_remote_process_is_alive_while_it_sends_heartbeats() {
        let owner = std::fs::metadata("/proc/self").unwrap().uid();
        let [minute, hour] = [60, 3600].map(Duration::from_secs);
        let now = SystemTime::UNIX_EPOCH + 10 * hour;
        let since = |age| LastHeartbeat { at: now - age, now };
        let own = Worker::current();
        // A local process needs no heartbeat.
        assert_eq!(own.liveness(owner, since(hour), minute), Liveness::Alive);
        let gone = Worker {
            process: format!("{}1", own.process),
            ..own.clone()
        };
        assert_eq!(
            gone.liveness(owner, since(Duration::ZERO), minute),
            Liveness::Dead
        );
        let elsewhere = Worker {
            process: "01234567-1-2".to_owned(),
            ..own
        };
        let alive = |heartbeat| elsewhere.liveness(owner, heartbeat, minute);
        assert_eq!(alive(since(minute)), Liveness::Alive);
        assert_eq!(alive(since(hour)), Liveness::Expired(hour));
        let ahead = |by| LastHeartbeat { at: now + by, now };
        assert_eq!(alive(ahead(minute)), Liveness::Alive);
        assert_eq!(alive(ahead(hour)), Liveness::ClockAhead(hour));
    }
}
