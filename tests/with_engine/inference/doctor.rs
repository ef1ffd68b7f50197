//! `ctseg doctor` on machines that are wrong in one way each: made up below a folder, or made so where that is allowed.

use crate::common;
mod disks;
mod gpus;
mod machines;
#[cfg(not(feature = "libtorch"))] // once is enough
mod servers;
mod things;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What a doctor said.
struct Said {
    code: i32,
    checks: Vec<Value>,
    state: String,
}

impl Said {
    /// Runs `command`, a `ctseg doctor --json`, to its end.
    fn by(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let value: Value = serde_json::from_str(&told)
            .unwrap_or_else(|_| panic!("{told}\n{}", String::from_utf8_lossy(&output.stderr)));
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

    /// That nothing else is wrong than the checks of these names.
    fn wrong_only(&self, checks: &[&str]) {
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

/// `ctseg --json doctor` in `folder`, without what jobs and proxies of this machine set.
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

/// Contains every one of `parts`.
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
}
