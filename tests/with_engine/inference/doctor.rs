//! `ctseg doctor` on machines with one fault each: simulated below a folder, or real where permissions allow it.

use crate::common;
mod disks;
mod gpus;
mod machines;
#[cfg(not(feature = "libtorch"))] // once is enough
mod servers;
mod settings;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The output of `ctseg doctor --json`.
struct Report {
    code: i32,
    checks: Vec<Value>,
    state: String,
}

impl Report {
    /// Runs `command`, a `ctseg doctor --json`.
    fn run(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let value: Value = serde_json::from_str(&stdout)
            .unwrap_or_else(|_| panic!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr)));
        Self {
            code: output.status.code().unwrap(),
            checks: value["checks"].as_array().unwrap().clone(),
            state: value["state"].as_str().unwrap().to_owned(),
        }
    }

    /// The checks of this name.
    fn all(&self, check: &str) -> Vec<&Value> {
        let found = self.checks.iter().filter(|one| one["check"] == check);
        found.collect()
    }

    /// The one check of this name, in `state`; its finding and advice in one text.
    fn only(&self, check: &str, state: &str) -> String {
        let found = self.all(check);
        assert_eq!(found.len(), 1, "{check}: {:#?}", self.checks);
        assert_eq!(found[0]["state"], state, "{:#?}", found[0]);
        let advice = found[0]["advice"].as_str();
        assert!(state == "ok" || state == "note" || advice.is_some_and(|text| !text.is_empty()));
        format!(
            "{}\n{}",
            found[0]["found"].as_str().unwrap(),
            advice.unwrap_or_default()
        )
    }

    /// Asserts that exactly these checks found a fault.
    fn assert_faults(&self, checks: &[&str]) {
        let wrong = self.checks.iter().filter(|one| one["state"] == "fault");
        let names: Vec<&str> = wrong.map(|one| one["check"].as_str().unwrap()).collect();
        assert_eq!(names, checks, "{:#?}", self.checks);
        let (code, state) = if checks.is_empty() {
            (0, "")
        } else {
            (1, "fault")
        };
        assert_eq!(self.code, code);
        assert!(state.is_empty() || self.state == state);
    }
}

/// `ctseg --json doctor` in `folder`, without this machine's variables of jobs and proxies.
fn doctor(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = common::ctseg(folder, &["--json", "doctor"]);
    command.args(arguments);
    let foreign = [
        "SLURM",
        "CUDA_",
        "NVIDIA_",
        "KUBERNETES_",
        "APPTAINER_",
        "SINGULARITY_",
    ];
    for (name, _) in std::env::vars() {
        let is_proxy = name.to_ascii_lowercase().ends_with("_proxy");
        if is_proxy || foreign.iter().any(|own| name.starts_with(own)) {
            command.env_remove(name);
        }
    }
    command
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
}
