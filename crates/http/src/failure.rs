//! Failures of requests.

use std::time::Duration;

/// Longest excerpt of a response in a message.
const MAX_MESSAGE_CHARACTERS: usize = 300;

/// Why a request failed.
pub enum Failure {
    /// No response. `why` leaves out the address, which may contain a signature.
    Connection {
        problem: ConnectionProblem,
        why: String,
    },
    Status(ErrorResponse),
}

/// Why there was no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionProblem {
    /// A certificate was rejected; retrying does not help.
    Certificate,
    /// The host name cannot be resolved.
    UnknownHost,
    Refused,
    Unreachable,
    TimedOut,
    Other,
}

/// A response without a 2xx status.
pub struct ErrorResponse {
    pub status: u16,
    pub body: Vec<u8>,
    /// The target of a redirect; empty without one.
    pub location: String,
    /// The wait that the server asks for.
    pub retry_after: Option<Duration>,
}

pub(super) fn problem_of(error: &reqwest::Error) -> ConnectionProblem {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    // rustls hides the kinds of its errors inside other errors.
    if error.is_connect() && innermost(error).to_string().contains("certificate") {
        return ConnectionProblem::Certificate;
    }
    if error.is_timeout() {
        return ConnectionProblem::TimedOut;
    }
    if error.is_dns() {
        return ConnectionProblem::UnknownHost;
    }
    let system = innermost(error).downcast_ref::<std::io::Error>();
    match system.map(std::io::Error::kind) {
        Some(ConnectionRefused) => ConnectionProblem::Refused,
        Some(HostUnreachable | NetworkUnreachable) => ConnectionProblem::Unreachable,
        _ => ConnectionProblem::Other,
    }
}

fn innermost(error: &reqwest::Error) -> &(dyn std::error::Error + 'static) {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

/// The innermost cause, without the address, which may contain a signature.
pub(super) fn reason(error: reqwest::Error) -> String {
    let kind = match &error {
        error if error.is_timeout() => "timed out",
        error if error.is_connect() => "cannot be reached",
        _ => "the connection failed",
    };
    let cause = innermost(&error.without_url()).to_string();
    format!("{kind} ({})", one_line(cause.as_bytes()))
}

/// The text of a response on one line, truncated if long.
pub fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(16 << 10)]).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_MESSAGE_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_responses_are_cut_between_characters() {
        let text = "ä".repeat(MAX_MESSAGE_CHARACTERS + 1);
        assert_eq!(
            one_line(text.as_bytes()).chars().count(),
            MAX_MESSAGE_CHARACTERS + 1
        );
        assert_eq!(one_line(b"a\n b\tc"), "a b c");
    }
}
