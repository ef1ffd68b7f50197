//! What can go wrong with a server, sorted by what is to be done about it.

use std::time::Duration;

use ctseg_base::Error;

/// Why something was not done.
#[derive(Debug)]
pub enum Fault {
    /// Nothing was heard, or that it cannot be done now: it is tried again. An unanswered request may have been
    /// carried out. `wait` is how long the server asked for.
    Away { why: String, wait: Option<Duration> },
    /// Trying again is of no use before a person has changed something: no access, or no MLflow server.
    Closed(String),
    /// The run was deleted on the server.
    Gone(String),
    /// The experiment was deleted on the server, and cannot be restored from here.
    Experiment(String),
    /// The place that the server names for files may not be written to before a person has allowed it; they wait.
    Place(String),
    /// This one thing is not wanted; others may be.
    Refused(Refusal),
    /// Not the server's: a file here.
    Local(Error),
}

/// What a server said to something that it does not want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// MLflow's own, such as `RESOURCE_DOES_NOT_EXIST`; empty where there was none.
    pub code: String,
    /// One line.
    pub message: String,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Away { why, .. }
            | Self::Closed(why)
            | Self::Gone(why)
            | Self::Experiment(why)
            | Self::Place(why) => f.write_str(why),
            Self::Refused(refusal) => f.write_str(&refusal.message),
            Self::Local(error) => error.fmt(f),
        }
    }
}

impl Refusal {
    pub fn is_missing(&self) -> bool {
        self.code == "RESOURCE_DOES_NOT_EXIST"
    }

    pub fn exists_already(&self) -> bool {
        self.code == "RESOURCE_ALREADY_EXISTS"
    }

    /// Whether the server does not know the request at all.
    pub fn is_unknown_request(&self) -> bool {
        matches!(self.status, 404 | 405 | 501) && !self.is_missing()
    }
}
