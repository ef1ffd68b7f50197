//! Errors of a tracking server, by what to do about them.

use std::time::Duration;

use ctseg_base::Error;
pub use ctseg_http::ConnectionProblem;

/// Why a request failed.
#[derive(Debug)]
pub enum Fault {
    /// No response, or the server is busy: retry. An unanswered request may have been carried out. `wait` is the delay
    /// that the server asked for.
    Unavailable {
        cause: Cause,
        why: String,
        wait: Option<Duration>,
    },
    /// Retrying does not help until a user changes something: access denied, or not an MLflow server.
    Fatal { cause: Cause, why: String },
    /// The run was deleted on the server.
    RunDeleted(String),
    /// The experiment was deleted on the server and this user may not restore it.
    ExperimentDeleted(String),
    /// The user has not allowed the server's artifact location; artifacts wait.
    LocationDenied(String),
    /// The server refuses this request; others may succeed.
    Refused(Refusal),
    /// A local file.
    Local(Error),
}

/// What the server did instead of what was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No response.
    Connection(ConnectionProblem),
    /// A response with this status.
    Status(u16),
    /// A response that MLflow would not give.
    NotMlflow,
}

/// The server's answer to a refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// MLflow's error code, such as `RESOURCE_DOES_NOT_EXIST`; empty without one.
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
            Self::Unavailable { why, .. }
            | Self::Fatal { why, .. }
            | Self::RunDeleted(why)
            | Self::ExperimentDeleted(why)
            | Self::LocationDenied(why) => f.write_str(why),
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

    /// Whether the server does not support the request.
    pub fn is_unknown_request(&self) -> bool {
        matches!(self.status, 404 | 405 | 501) && !self.is_missing()
    }
}
