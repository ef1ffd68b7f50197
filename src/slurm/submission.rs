//! Job submission with sbatch.

use std::io::Write;
use std::process::{Command, Stdio};

use super::script::option_of;
use super::stdout_of;
use ctseg_base::{Error, Result};

/// Has sbatch validate the script without submitting it.
///
/// # Errors
/// sbatch refuses it; the error has its message.
pub fn tried(script: &str) -> Result<()> {
    sbatch(&["--test-only".to_owned()], script).map(drop)
}

/// Submits the script and returns the job ID. A dependency `after`, such as `afterok:12,afterany:13`, may be empty; the
/// job is cancelled if the dependency can no longer be met.
///
/// # Errors
/// sbatch refuses it.
pub fn submitted(script: &str, after: &str) -> Result<String> {
    let mut options = vec!["--parsable".to_owned()];
    if !after.is_empty() {
        options.push(format!("--dependency={after}"));
        options.push("--kill-on-invalid-dep=yes".to_owned());
    }
    let answer = sbatch(&options, script)?;
    // With several clusters, the name of the cluster follows.
    let id = answer.trim().split(';').next().unwrap_or_default();
    match !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()) {
        true => Ok(id.to_owned()),
        false => Err(Error::invalid(format!(
            "sbatch answered '{}'; expected a job ID",
            answer.trim()
        ))),
    }
}

/// Whether `variable` would make sbatch override an option of the script.
fn overrides(variable: &str, script: &str) -> bool {
    let Some(name) = variable.strip_prefix("SBATCH_") else {
        return false;
    };
    let option = match name {
        // Would turn a script without an array into one.
        "ARRAY_INX" => return true,
        "TIMELIMIT" => "time".to_owned(),
        "NO_REQUEUE" => "requeue".to_owned(),
        "MEM_PER_NODE" | "MEM_PER_CPU" | "MEM_PER_GPU" => "mem".to_owned(),
        "GPUS" | "GPUS_PER_NODE" | "GPUS_PER_TASK" => "gres".to_owned(),
        "CPUS_PER_GPU" => "cpus-per-task".to_owned(),
        name => name.to_ascii_lowercase().replace('_', "-"),
    };
    let mut options = script.lines().filter_map(option_of);
    options.any(|(own, _)| own == option)
}

fn sbatch(options: &[String], script: &str) -> Result<String> {
    let cannot = |error| Error::invalid(format!("cannot run 'sbatch': {error}"));
    let mut command = Command::new("sbatch");
    for (variable, _) in std::env::vars_os() {
        if variable
            .to_str()
            .is_some_and(|name| overrides(name, script))
        {
            command.env_remove(variable);
        }
    }
    let mut child = command
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| super::not_run("sbatch", &error))?;
    // If sbatch fails at once, it does not read the script; its error is returned below.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(script.as_bytes());
    }
    stdout_of("sbatch", &child.wait_with_output().map_err(cannot)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_override_the_script_are_found() {
        let script = "#SBATCH --time=04:00:00\n#SBATCH --mem=16G\n#SBATCH --requeue\n#SBATCH --open-mode=append\n";
        for name in [
            "TIMELIMIT",
            "MEM_PER_CPU",
            "NO_REQUEUE",
            "OPEN_MODE",
            "ARRAY_INX",
        ] {
            assert!(overrides(&format!("SBATCH_{name}"), script), "{name}");
        }
        for name in [
            "SBATCH_PARTITION",
            "SBATCH_GPUS",
            "SBATCH_WCKEY",
            "TIMELIMIT",
            "SLURM_TIMELIMIT",
        ] {
            assert!(!overrides(name, script), "{name}");
        }
    }
}
