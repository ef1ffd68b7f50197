//! Slurm, by its own commands: what it says of the job that this process is in, of a cluster's partitions, and jobs
//! that are handed to it.

pub mod limit;
pub mod span;

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// What one of Slurm's commands prints.
///
/// # Errors
/// It is not installed here, or it fails: what it says then, in one line.
pub fn answer(program: &str, arguments: &[String]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::invalid(format!(
                "'{program}' is not in PATH; run this where Slurm's commands are, such as the cluster's login node"
            )),
            _ => Error::invalid(format!("cannot run '{program}': {error}")),
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Err(Error::invalid(format!(
        "{program} failed ({}): {}",
        output.status,
        lines.join("; ")
    )))
}
