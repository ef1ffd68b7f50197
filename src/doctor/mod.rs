//! Checks of this machine for `ctseg doctor`. Each file checks one thing and returns [`Finding`]s. The machine is read
//! through [`Host`](ctseg_base::limits::host::Host), so that tests can check any machine.

pub mod clock;
pub mod cluster;
pub mod cores;
pub mod disk;
pub mod engine;
pub mod gpu;
pub mod libtorch;
pub mod memory;
pub mod model;
pub mod mounts;
pub mod process;
pub mod settings;
pub mod timeout;
pub mod tracking;

use ctseg_base::text::printable::one_line;
use ctseg_base::text::words::counted;
use serde::Serialize;
use serde_json::{Value, json};

/// Severity of a finding, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Worth knowing, possibly intended.
    Note,
    /// Work is possible, but may fail or be slow.
    Warning,
    /// Something requested does not work.
    Fault,
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Such as `memory` or `disk, runs`.
    pub check: String,
    pub state: State,
    /// One line.
    pub found: String,
    /// What to do. Set for warnings and faults, optional for others.
    pub advice: Option<String>,
    /// The same as structured data.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub facts: Value,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

impl Finding {
    pub fn ok(check: &str, found: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            state: State::Ok,
            found: found.into(),
            advice: None,
            facts: Value::Null,
        }
    }

    pub fn note(check: &str, found: impl Into<String>) -> Self {
        Self::ok(check, found).but(State::Note)
    }

    pub fn warning(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::ok(check, found).but(State::Warning).advised(advice)
    }

    pub fn fault(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::ok(check, found).but(State::Fault).advised(advice)
    }

    /// The finding with another state.
    pub fn but(self, state: State) -> Self {
        Self { state, ..self }
    }

    pub fn advised(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(advice.into()),
            ..self
        }
    }

    pub fn with(self, facts: Value) -> Self {
        Self { facts, ..self }
    }
}

/// The worst state; ok if there are no findings.
pub fn worst(findings: &[Finding]) -> State {
    let states = findings.iter().map(|finding| finding.state);
    states.max().unwrap_or(State::Ok)
}

/// A table with advice below each line and a summary at the end.
pub fn as_text(findings: &[Finding]) -> String {
    let widest = |text: &dyn Fn(&Finding) -> usize| findings.iter().map(text).max().unwrap_or(0);
    let state = widest(&|finding| finding.state.name().len());
    let check = widest(&|finding| finding.check.chars().count());
    let mut text = String::new();
    for finding in findings {
        let (name, found) = (finding.state.name(), one_line(&finding.found));
        text += &format!("{name:<state$}  {:<check$}  {found}\n", finding.check);
        if let Some(advice) = &finding.advice {
            let (advice, indent) = (one_line(advice), state + check + 4);
            text += &format!("{:indent$}→ {advice}\n", "");
        }
    }
    text + &summary(findings) + "\n"
}

/// Numbers of faults and warnings.
fn summary(findings: &[Finding]) -> String {
    let count = |state| findings.iter().filter(|one| one.state == state).count();
    let found = [
        (count(State::Fault), "fault"),
        (count(State::Warning), "warning"),
    ];
    let parts: Vec<String> = found
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| counted(count, noun))
        .collect();
    match parts.as_slice() {
        [] => "no problems found".to_owned(),
        parts => parts.join(", "),
    }
}

pub fn as_json(findings: &[Finding]) -> Value {
    json!({
        "ctseg_version": env!("CARGO_PKG_VERSION"),
        "state": worst(findings),
        "checks": findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_advice_below() {
        let findings = [
            Finding::ok("cores", "2 of 2"),
            Finding::fault("disk of runs", "/runs: full", "make room"),
            Finding::warning("memory", "1 GiB", "ask for more"),
            Finding::warning("files", "256", "ulimit -n 4096"),
        ];
        let expected = "\
ok       cores         2 of 2
fault    disk of runs  /runs: full
                       → make room
warning  memory        1 GiB
                       → ask for more
warning  files         256
                       → ulimit -n 4096
1 fault, 2 warnings
";
        assert_eq!(as_text(&findings), expected);
        assert_eq!(worst(&findings), State::Fault);
        assert_eq!(
            as_text(&findings[..1]),
            "ok  cores  2 of 2\nno problems found\n"
        );
        let value = as_json(&findings);
        assert_eq!(value["state"], "fault");
        assert_eq!(value["checks"][1]["advice"], "make room");
    }
}
