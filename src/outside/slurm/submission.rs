//! Handing jobs to Slurm.

use std::io::Write;
use std::process::{Command, Stdio};

use super::said_by;
use crate::error::{Error, Result};

/// Asks sbatch whether it would take the script, without submitting it.
///
/// # Errors
/// It would not; what it says.
pub fn tried(script: &str) -> Result<()> {
    sbatch(&["--test-only".to_owned()], script).map(drop)
}

/// Submits the script: the job's number. With `after`, such as `afterok:12`, it waits, and is cancelled where what
/// it waits for fails.
///
/// # Errors
/// sbatch does not take it.
pub fn submitted(script: &str, after: Option<&str>) -> Result<String> {
    let mut options = vec!["--parsable".to_owned()];
    if let Some(after) = after {
        options.push(format!("--dependency={after}"));
        options.push("--kill-on-invalid-dep=yes".to_owned());
    }
    let said = sbatch(&options, script)?;
    // With several clusters the cluster's name follows.
    let id = said.trim().split(';').next().unwrap_or_default();
    match !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()) {
        true => Ok(id.to_owned()),
        false => Err(Error::invalid(format!(
            "sbatch answered '{}'; expected a job's number",
            said.trim()
        ))),
    }
}

fn sbatch(options: &[String], script: &str) -> Result<String> {
    let cannot = |error| Error::invalid(format!("cannot run 'sbatch': {error}"));
    let mut child = Command::new("sbatch")
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| super::not_run("sbatch", &error))?;
    // One that fails at once does not read it; what it says is told below.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(script.as_bytes());
    }
    said_by("sbatch", &child.wait_with_output().map_err(cannot)?)
}
