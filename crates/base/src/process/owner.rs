//! The process that works on a folder, as the folder's files name it: to tell later, from anywhere that sees the
//! folder, whether it still does.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::ProcessId;
use super::scheduler_job::Job;

/// A process with what people know it by.
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

/// What can be told of a process that said nothing of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive {
    Yes,
    /// It is gone.
    No,
    /// It cannot be asked (it runs on another machine), and was not heard of for so long.
    Silent(Duration),
}

impl Alive {
    /// See [`Worker::alive`]; of a process that is not named nothing but signs is known.
    pub fn of(process: Option<&ProcessId>, owner: u32, sign: Duration, expiry: Duration) -> Self {
        match process.and_then(|process| process.is_alive(owner)) {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None if sign <= expiry => Self::Yes,
            None => Self::Silent(sign),
        }
    }
}

impl Worker {
    /// This process.
    pub fn own() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let Job { id, rank } = Job::own().clone();
        Self {
            process: ProcessId::own().to_string(),
            host: host.trim().to_owned(),
            pid: std::process::id(),
            job: id,
            rank,
        }
    }

    /// Whether it lives, where `owner` is whose file names it, and the last sign of its life is so old. One that
    /// cannot be asked is taken to live for `expiry` after each sign.
    pub fn alive(&self, owner: u32, sign: Duration, expiry: Duration) -> Alive {
        let process = ProcessId::parse(&self.process);
        Alive::of(process.as_ref(), owner, sign, expiry)
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
    fn a_process_elsewhere_lives_while_it_gives_signs() {
        let owner = std::fs::metadata("/proc/self").unwrap().uid();
        let [minute, hour] = [60, 3600].map(Duration::from_secs);
        let own = Worker::own();
        // Whoever can be asked needs no sign.
        assert_eq!(own.alive(owner, hour, minute), Alive::Yes);
        let gone = Worker {
            process: format!("{}1", own.process),
            ..own.clone()
        };
        assert_eq!(gone.alive(owner, Duration::ZERO, minute), Alive::No);
        let elsewhere = Worker {
            process: "01234567-1-2".to_owned(),
            ..own
        };
        assert_eq!(elsewhere.alive(owner, minute, minute), Alive::Yes);
        assert_eq!(elsewhere.alive(owner, hour, minute), Alive::Silent(hour));
    }
}
