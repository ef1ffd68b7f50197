//! `ctseg submit slurm`: renders job scripts, checks what can be checked before queueing, and submits them.

use std::path::{Path, PathBuf};

use clap::{Args, Command, Subcommand};
use serde_json::json;

use super::checks;
use super::command_line::CommandLine;
use super::jobs::{ChainJob, FitFoldsJob, FitJob, PredictJob};
use super::plan::Step;
use crate::cli::outcome::Outcome;
use crate::cli::print::{print_out, print_raw};
use crate::cli::settings::Settings;
use crate::log::terminal;
use crate::slurm::cluster;
use crate::slurm::script::Job;
use crate::slurm::submission::{submitted, tried};
use ctseg_base::text::printable::Shown;
use ctseg_base::{Error, Result};

#[derive(Args)]
pub struct SlurmArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Segment volumes in a job array
    Predict(Box<PredictJob>),
    /// Train one stage, requeued until finished
    Fit(Box<FitJob>),
    /// Train the folds of a stage in parallel, each into its own model: MODEL-fold0, MODEL-fold1, …
    FitFolds(Box<FitFoldsJob>),
    /// Train stages 1 and 2, predict and evaluate, as dependent jobs
    Chain(Box<ChainJob>),
}

pub fn run(args: SlurmArgs, settings: &Settings, command: Command) -> anyhow::Result<Outcome> {
    let program = checks::program()?;
    let line = CommandLine::of_process(command)?;
    let plan = match args.what {
        What::Predict(job) => job.plan(&line, settings)?,
        What::Fit(job) => job.plan(&line, settings)?,
        What::FitFolds(job) => job.plan(&line, settings)?,
        What::Chain(job) => job.plan(&line, settings)?,
    };
    let scripts: Vec<String> = plan
        .steps
        .iter()
        .map(|step| step.job.script(&program))
        .collect();
    if plan.dry_run {
        print_scripts(&plan.steps, &scripts, settings.json);
        return Ok(Outcome::AllDone);
    }
    let cwd = std::env::current_dir().map_err(Error::io(".", "find"))?;
    let warnings = checks::places(&program, &cwd);
    let observer = terminal::for_stderr();
    warnings.iter().for_each(|line| observer.warn(line));
    let jobs: Vec<Job> = plan.steps.iter().map(|step| step.job.clone()).collect();
    check_jobs(&jobs, &scripts)?;
    let ids = submit_all(&plan.steps, &scripts)?;
    print_submitted(&plan.steps, &ids, &cwd, &warnings, settings.json);
    Ok(Outcome::AllDone)
}

/// Reports all known problems of the jobs at once, then has sbatch validate the scripts.
fn check_jobs(jobs: &[Job], scripts: &[String]) -> Result<()> {
    let problems = cluster::problems(jobs).map_err(|error| {
        Error::invalid(format!(
            "{error}; --dry-run prints the job scripts without Slurm"
        ))
    })?;
    match problems.as_slice() {
        [] => scripts.iter().try_for_each(|script| tried(script)),
        [one] => Err(Error::usage(format!("nothing was submitted: {one}"))),
        several => Err(Error::usage(format!(
            "nothing was submitted, {} problems: {}",
            several.len(),
            several.join("; ")
        ))),
    }
}

fn submit_all(steps: &[Step], scripts: &[String]) -> Result<Vec<String>> {
    let mut ids: Vec<String> = Vec::new();
    for (step, script) in steps.iter().zip(scripts) {
        match submitted(script, &step.dependency(&ids)) {
            Ok(id) => ids.push(id),
            Err(error) if ids.is_empty() => return Err(error),
            Err(error) => {
                let ids = ids.join(" ");
                return Err(Error::invalid(format!(
                    "{}: {error}; already in the queue: {ids} (cancel with 'scancel {ids}')",
                    step.job.name()
                )));
            }
        }
    }
    Ok(ids)
}

fn print_scripts(steps: &[Step], scripts: &[String], as_json: bool) {
    let names = steps.iter().map(|step| step.job.name().to_owned());
    let names: Vec<String> = names.collect();
    if as_json {
        let jobs = steps.iter().zip(scripts);
        let jobs = jobs.map(|(step, script)| {
            json!({"name": step.job.name(), "after": step.dependency(&names), "script": script})
        });
        print_out(&format!(
            "{:#}\n",
            json!({"jobs": jobs.collect::<Vec<_>>()})
        ));
        return;
    }
    for (index, (step, script)) in steps.iter().zip(scripts).enumerate() {
        if index > 0 {
            print_out(&format!(
                "\n# ==== script {} of {}, '{}': --dependency={}, with job IDs for names ====\n\n",
                index + 1,
                steps.len(),
                step.job.name().shown(),
                step.dependency(&names).shown()
            ));
        }
        print_raw(script);
    }
}

fn print_submitted(steps: &[Step], ids: &[String], cwd: &Path, warnings: &[String], as_json: bool) {
    let logs = steps
        .iter()
        .zip(ids)
        .map(|(step, id)| cwd.join(step.job.log(id)));
    let logs: Vec<PathBuf> = logs.collect();
    if as_json {
        let jobs = steps.iter().zip(ids).zip(&logs).map(|((step, id), log)| {
            json!({"name": step.job.name(), "id": id, "tasks": step.job.option("array"), "log": log.display().to_string()})
        });
        let jobs: Vec<_> = jobs.collect();
        print_out(&format!(
            "{:#}\n",
            json!({"jobs": jobs, "warnings": warnings})
        ));
        return;
    }
    for ((step, id), log) in steps.iter().zip(ids).zip(&logs) {
        let array = step.job.option("array");
        let tasks = array.map_or_else(String::new, |array| format!(", tasks {array}"));
        print_out(&format!(
            "{} is job {id}{tasks}\n  log    {}\n",
            step.job.name(),
            log.shown()
        ));
    }
    let all = ids.join(",");
    print_out(&format!(
        "  watch  squeue -j {all}\n  stop   scancel {}\n",
        ids.join(" ")
    ));
}
