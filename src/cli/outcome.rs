//! How a command ends, and its exit code.

use std::process::ExitCode;

use ctseg_base::Error;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    AllDone,
    NothingDone,
    WrongUsage,
    SomeFailed,
    Interrupted,
}

impl Outcome {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::AllDone => 0,
            Self::NothingDone => 1,
            Self::WrongUsage => 2,
            Self::SomeFailed => 3,
            Self::Interrupted => 75,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.exit_code())
    }
}

/// The outcome of a command that returned an error.
pub fn exit_code_of(error: &anyhow::Error) -> Outcome {
    match error.downcast_ref::<Error>() {
        Some(Error::Interrupted(_)) => Outcome::Interrupted,
        Some(Error::Usage(_)) => Outcome::WrongUsage,
        _ => Outcome::NothingDone,
    }
}
