//! `ctseg submit`: other commands as jobs of a cluster, one file per scheduler.

mod checks;
mod command_line;
mod jobs;
mod options;
mod plan;
mod slurm;

use clap::{Args, Command, Subcommand};

use crate::cli::outcome::Outcome;
use crate::cli::settings::Settings;

#[derive(Args)]
pub struct SubmitArgs {
    #[command(subcommand)]
    scheduler: Scheduler,
}

#[derive(Subcommand)]
enum Scheduler {
    /// Submit to Slurm, with the job scripts of scripts/slurm: they save and requeue before their time limit
    Slurm(slurm::SlurmArgs),
}

/// `command` is the command line definition of ctseg, which must accept the arguments of the jobs.
pub fn run(args: SubmitArgs, settings: &Settings, command: Command) -> anyhow::Result<Outcome> {
    match args.scheduler {
        Scheduler::Slurm(args) => slurm::run(args, settings, command),
    }
}
