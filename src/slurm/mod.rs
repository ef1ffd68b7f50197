//! Slurm, through its commands: the time limit of the present job, the cluster's partitions, and job submission.

pub mod cluster;
pub mod limit;
pub mod script;
pub mod span;
pub mod submission;

use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};

use ctseg_base::{Error, Result};

/// The output of a Slurm command.
///
/// # Errors
/// The command is not installed, or fails; the error has its stderr as one line.
pub fn output_of(program: &str, arguments: &[String]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_run(program, &error))?;
    stdout_of(program, &output)
}

fn not_run(program: &str, error: &std::io::Error) -> Error {
    Error::invalid(match error.kind() {
        ErrorKind::NotFound => format!(
            "'{program}' is not in PATH; run this where Slurm is installed, such as on a login node"
        ),
        _ => format!("cannot run '{program}': {error}"),
    })
}

fn stdout_of(program: &str, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    Err(Error::invalid(format!(
        "{program} failed ({}): {}",
        output.status,
        lines.collect::<Vec<_>>().join("; ")
    )))
}
