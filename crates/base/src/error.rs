//! The error type. Every message is one line that says what was found, what was expected and what to do.

use std::path::{Path, PathBuf};

use crate::text::printable::one_line;

/// An error with a one-line message for the user. Control characters, such as from file names, are escaped. Messages
/// include their causes, so that no kind has a `source`. Code that handles an error asks for its kind, never for words
/// of its message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file whose content cannot be used.
    #[error("{}", one_line(&format!("{}: {problem}", path.display())))]
    File { path: PathBuf, problem: String },
    /// The operating system refused to read or write a file.
    #[error("{}", one_line(&format!("{}: cannot {action}: {cause}", path.display())))]
    Io {
        path: PathBuf,
        action: &'static str,
        cause: std::io::Error,
    },
    /// An invalid command line.
    #[error("{}", one_line(.0))]
    Usage(String),
    /// An invalid setting or combination of inputs; also failures without a kind of their own.
    #[error("{}", one_line(.0))]
    Invalid(String),
    /// This build, library or model lacks a feature that was asked for.
    #[error("{}", one_line(.0))]
    Unsupported(String),
    /// The host or the device lacks memory; less at once may fit.
    #[error("{}", one_line(.0))]
    OutOfMemory(String),
    /// A defect of ctseg.
    #[error("internal: {}", one_line(.0))]
    Internal(String),
    /// A panic, such as in an engine.
    #[error("the engine failed: {}", one_line(.0))]
    Panic(String),
    /// The run was interrupted and can be resumed.
    #[error("interrupted; {}", one_line(.0))]
    Interrupted(String),
}

/// Result with ctseg's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error about the content of `path`.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::File {
            path: path.as_ref().to_path_buf(),
            problem: problem.into(),
        }
    }

    /// For `map_err`: an I/O error on `path` while trying to `action` ("read", "create", …).
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |cause| Self::Io {
            path,
            action,
            cause: with_advice(cause),
        }
    }

    /// An error about the command line.
    pub fn usage(problem: impl Into<String>) -> Self {
        Self::Usage(problem.into())
    }

    /// An error about settings or inputs.
    pub fn invalid(problem: impl Into<String>) -> Self {
        Self::Invalid(problem.into())
    }

    /// A feature that is missing.
    pub fn unsupported(problem: impl Into<String>) -> Self {
        Self::Unsupported(problem.into())
    }

    /// Too little memory.
    pub fn out_of_memory(problem: impl Into<String>) -> Self {
        Self::OutOfMemory(problem.into())
    }

    /// A defect of ctseg; the message begins with "internal: ".
    pub fn internal(problem: impl Into<String>) -> Self {
        Self::Internal(problem.into())
    }

    /// Names the file whose content led to this error, unless the error names one already or concerns none.
    pub fn caused_by(self, path: impl AsRef<Path>) -> Self {
        match self {
            Self::File { .. } | Self::Io { .. } | Self::Usage(_) | Self::Interrupted(_) => self,
            Self::Invalid(problem) => Self::file(path, problem),
            other => Self::file(path, other.to_string()),
        }
    }
}

/// Adds advice to system errors that need it.
fn with_advice(cause: std::io::Error) -> std::io::Error {
    use std::io::ErrorKind::FileTooLarge;
    match cause.kind() {
        FileTooLarge => std::io::Error::new(
            FileTooLarge,
            format!(
                "{cause}; raise the limit on file sizes (ulimit -f), or choose a file system that takes larger files"
            ),
        ),
        _ => cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_contains_its_cause_once() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let cause = missing.to_string();
        let error = Error::io("a.nii", "read")(missing);
        assert_eq!(error.to_string(), format!("a.nii: cannot read: {cause}"));
        assert!(std::error::Error::source(&error).is_none());
    }

    #[test]
    fn errors_are_one_line_whatever_the_file_name() {
        let name = "a\nerror: forged\u{1b}[2J.nii";
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        for error in [
            Error::file(name, "is damaged"),
            Error::io(name, "read")(missing),
            Error::usage(name),
            Error::invalid(name),
            Error::unsupported(name),
            Error::out_of_memory(name),
            Error::internal(name),
            Error::Panic(name.to_owned()),
            Error::Interrupted(name.to_owned()),
        ] {
            let text = error.to_string();
            let is_escaped = text.contains(r"a\nerror: forged\u001b[2J.nii");
            assert!(is_escaped && !text.contains(char::is_control), "{text}");
        }
    }

    #[test]
    fn a_defect_says_so_also_beside_the_file_that_led_to_it() {
        let defect = || Error::internal("a network without logits");
        assert_eq!(defect().to_string(), "internal: a network without logits");
        let expected = "a.nii: internal: a network without logits";
        assert_eq!(defect().caused_by("a.nii").to_string(), expected);
    }

    #[test]
    fn errors_that_name_a_file_or_concern_none_stay_as_they_are() {
        let file = Error::file("b.nii", "is damaged").caused_by("a.nii");
        assert_eq!(file.to_string(), "b.nii: is damaged");
        assert!(matches!(
            Error::usage("--tta").caused_by("a.nii"),
            Error::Usage(_)
        ));
        let stopped = Error::Interrupted("saved".to_owned()).caused_by("a.nii");
        assert!(matches!(stopped, Error::Interrupted(_)));
    }
}
