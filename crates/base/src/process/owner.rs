//! The process that works on a folder, as the folder's files name it: to tell later, from anywhere that sees the
//! folder, whether it still does.

use std::time::{Duration, SystemTime};

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
    /// It cannot be asked, and its last sign lies so far in the future: a clock that is wrong, which would let it live
    /// for ever.
    Ahead(Duration),
}

impl Alive {
    /// See [`Worker::alive`]; of a process that is not named nothing but signs is known.
    pub fn of(process: Option<&ProcessId>, owner: u32, sign: Sign, expiry: Duration) -> Self {
        match process.and_then(|process| process.is_alive(owner)) {
            Some(true) => return Self::Yes,
            Some(false) => return Self::No,
            None => {}
        }
        match sign.now.duration_since(sign.at) {
            Ok(silent) if silent > expiry => Self::Silent(silent),
            Err(ahead) if ahead.duration() > expiry => Self::Ahead(ahead.duration()),
            _ => Self::Yes,
        }
    }
}

/// A sign of life, and the time at which it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Sign {
    pub at: SystemTime,
    pub now: SystemTime,
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

    /// Whether it lives, where `owner` is whose file names it. One that cannot be asked is taken to live for `expiry`
    /// after its last `sign`; one that lies further in the future than `expiry` is none.
    pub fn alive(&self, owner: u32, sign: Sign, expiry: Duration) -> Alive {
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
        let now = SystemTime::UNIX_EPOCH + 10 * hour;
        let since = |age| Sign { at: now - age, now };
        let own = Worker::own();
        // Whoever can be asked needs no sign.
        assert_eq!(own.alive(owner, since(hour), minute), Alive::Yes);
        let gone = Worker {
            process: format!("{}1", own.process),
            ..own.clone()
        };
        assert_eq!(gone.alive(owner, since(Duration::ZERO), minute), Alive::No);
        let elsewhere = Worker {
            process: "01234567-1-2".to_owned(),
            ..own
        };
        let alive = |sign| elsewhere.alive(owner, sign, minute);
        assert_eq!(alive(since(minute)), Alive::Yes);
        assert_eq!(alive(since(hour)), Alive::Silent(hour));
        let ahead = |by| Sign { at: now + by, now };
        assert_eq!(alive(ahead(minute)), Alive::Yes);
        assert_eq!(alive(ahead(hour)), Alive::Ahead(hour));
    }
}
