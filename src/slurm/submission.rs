//! Handing jobs to Slurm.

use std::io::Write;
use std::process::{Command, Stdio};

use super::said_by;
use super::script::option_of;
use ctseg_base::{Error, Result};

/// Asks sbatch whether it would take the script, without submitting it.
///
/// # Errors
/// It would not; what it says.
pub fn tried(script: &str) -> Result<()> {
    sbatch(&["--test-only".to_owned()], script).map(drop)
}

/// Submits the script: the job's number. With an `after` that is not empty, such as `afterok:12,afterany:13`, it waits,
/// and is cancelled where this cannot come about any more.
///
/// # Errors
/// sbatch does not take it.
pub fn submitted(script: &str, after: &str) -> Result<String> {
    let mut options = vec!["--parsable".to_owned()];
    if !after.is_empty() {
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

/// Whether the environment's `variable` is one of sbatch's that beats an option of the script, which holds all that was
/// asked for and all that the job needs.
fn is_beaten(variable: &str, script: &str) -> bool {
    let Some(name) = variable.strip_prefix("SBATCH_") else {
        return false;
    };
    let option = match name {
        // Of a script that has none it would make one.
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
            .is_some_and(|name| is_beaten(name, script))
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
    // One that fails at once does not read it; what it says is told below.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(script.as_bytes());
    }
    said_by("sbatch", &child.wait_with_output().map_err(cannot)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_do_not_beat_what_the_script_says() {
        let script = "#SBATCH --time=04:00:00\n#SBATCH --mem=16G\n#SBATCH --requeue\n#SBATCH --open-mode=append\n";
        for name in [
            "TIMELIMIT",
            "MEM_PER_CPU",
            "NO_REQUEUE",
            "OPEN_MODE",
            "ARRAY_INX",
        ] {
            assert!(is_beaten(&format!("SBATCH_{name}"), script), "{name}");
        }
        for name in [
            "SBATCH_PARTITION",
            "SBATCH_GPUS",
            "SBATCH_WCKEY",
            "TIMELIMIT",
            "SLURM_TIMELIMIT",
        ] {
            assert!(!is_beaten(name, script), "{name}");
        }
    }
}
