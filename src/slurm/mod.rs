//! Slurm, by its own commands: what it says of the job that this process is in, of a cluster's partitions, and jobs
//! that are handed to it.

pub mod cluster;
pub mod limit;
pub mod script;
pub mod span;
pub mod submission;

use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};

use ctseg_base::{Error, Result};

/// What one of Slurm's commands prints.
///
/// # Errors
/// It is not installed here, or it fails: what it says then, in one line.
pub fn answer(program: &str, arguments: &[String]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_run(program, &error))?;
    said_by(program, &output)
}

fn not_run(program: &str, error: &std::io::Error) -> Error {
    Error::invalid(match error.kind() {
        ErrorKind::NotFound => format!(
            "'{program}' is not in PATH; run this where Slurm's commands are, such as on the cluster's login node"
        ),
        _ => format!("cannot run '{program}': {error}"),
    })
}

fn said_by(program: &str, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    Err(Error::invalid(format!(
        "{program} failed ({}): {}",
        output.status,
        lines.collect::<Vec<_>>().join("; ")
    )))
}
