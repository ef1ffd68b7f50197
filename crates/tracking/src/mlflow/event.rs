//! The lines of the event file: one JSON object each, `{"at": …, "event": "metrics", …}`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use super::parent::Parent;
use ctseg_core::run::tracker::{DatasetInput, Outcome};

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Line {
    /// Milliseconds since 1970.
    pub at: i64,
    #[serde(flatten)]
    pub event: Event,
}

/// An event. Paths are relative to the run folder where possible.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process starts or resumes the run.
    #[serde(rename = "begun")]
    Started(RunStart),
    Metrics {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<String>,
        step: u64,
        /// It is of an interrupted epoch, which a resumed run repeats.
        #[serde(rename = "again", default, skip_serializing_if = "std::ops::Not::not")]
        is_partial: bool,
        values: BTreeMap<String, Number>,
    },
    Parameters {
        values: BTreeMap<String, String>,
    },
    Tags {
        values: BTreeMap<String, String>,
    },
    Artifact {
        path: String,
        to: String,
    },
    Dataset {
        name: String,
        digest: String,
        source: String,
        context: String,
        cases: usize,
    },
    Model {
        bundle: String,
        /// SHA-256 of the whole bundle.
        sha256: String,
        name: String,
        structures: Vec<String>,
        spacing_mm: Vec<f64>,
    },
    Ended {
        status: Status,
        /// The error, if it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunStart {
    /// Unique among all runs; identifies the run on a server, beside its run ID.
    pub key: String,
    /// The run name on the server.
    pub name: String,
    /// The run folder's name.
    pub run: String,
    /// The key of the sweep, if the run is a trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The parent of a run that is not a trial.
    #[serde(rename = "above", default, skip_serializing_if = "Option::is_none")]
    pub parent_run: Option<Parent>,
    /// Number of networks; with several, each is a child run.
    pub networks: usize,
    /// The experiment, if one was named when the run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The process that wrote this, see [`ctseg_base::process::id::ProcessId`].
    pub process: String,
}

/// The status of a run, in MLflow's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    Running,
    Finished,
    Failed,
    Killed,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Killed => "KILLED",
        })
    }
}

impl Event {
    pub fn ended(outcome: &Outcome) -> Self {
        let (status, reason) = match outcome {
            Outcome::Finished => (Status::Finished, None),
            Outcome::Interrupted => (Status::Killed, None),
            Outcome::Failed(reason) => (Status::Failed, Some(reason.clone())),
        };
        Self::Ended { status, reason }
    }

    pub fn dataset(used: &DatasetInput) -> Self {
        Self::Dataset {
            name: used.name.clone(),
            digest: used.digest.clone(),
            source: used.source.clone(),
            context: used.context.clone(),
            cases: used.cases,
        }
    }

    /// Whether it is uploaded with the artifacts, which may take long, and not with the metrics.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::Artifact { .. } | Self::Model { .. })
    }
}

/// A float. Values that JSON lacks are `"NaN"`, `"Infinity"` and `"-Infinity"`, as in MLflow's REST API.
#[derive(Debug, Clone, Copy)]
pub struct Number(pub f64);

/// Bitwise.
impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            value if value.is_finite() => serializer.serialize_f64(value),
            value if value.is_nan() => serializer.serialize_str("NaN"),
            value if value > 0.0 => serializer.serialize_str("Infinity"),
            _ => serializer.serialize_str("-Infinity"),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Written {
            Real(f64),
            Text(String),
        }
        let value = match Written::deserialize(deserializer)? {
            Written::Real(value) => value,
            Written::Text(text) => match text.as_str() {
                "NaN" => f64::NAN,
                "Infinity" => f64::INFINITY,
                "-Infinity" => f64::NEG_INFINITY,
                _ => return Err(D::Error::custom("expected a number")),
            },
        };
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let values = [
            ("a", 0.1 + 0.2),
            ("b", f64::NAN),
            ("c", f64::INFINITY),
            ("d", f64::NEG_INFINITY),
            ("e", -0.0),
            ("f", 1e-300),
            ("g", 3.0),
        ];
        let line = Line {
            at: 1_700_000_000_123,
            event: Event::Metrics {
                network: Some("fold 0".to_owned()),
                step: 7,
                is_partial: false,
                values: values
                    .map(|(name, value)| (name.to_owned(), Number(value)))
                    .into(),
            },
        };
        let text = serde_json::to_string(&line).unwrap();
        assert!(
            text.starts_with(r#"{"at":1700000000123,"event":"metrics","network":"fold 0","step":7,"values":{"a":0.30000000000000004,"b":"NaN","c":"Infinity","d":"-Infinity","e":-0.0,"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        let ended = Line {
            at: 1,
            event: Event::ended(&Outcome::Failed("disk full".to_owned())),
        };
        let text = serde_json::to_string(&ended).unwrap();
        assert_eq!(
            text,
            r#"{"at":1,"event":"ended","status":"FAILED","reason":"disk full"}"#
        );
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), ended);
    }
}
