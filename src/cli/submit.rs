//! `ctseg submit`: other commands as jobs of a cluster, one file per scheduler.

mod checks;
mod jobs;
mod options;
mod slurm;

use clap::{Args, Subcommand};

use super::{Outcome, Settings};

#[derive(Args)]
pub struct SubmitArgs {
    #[command(subcommand)]
    scheduler: Scheduler,
}

#[derive(Subcommand)]
enum Scheduler {
    /// Slurm, with the job scripts of scripts/slurm: they save and requeue themselves before their time is up
    Slurm(slurm::SlurmArgs),
}

pub fn run(args: SubmitArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    match args.scheduler {
        Scheduler::Slurm(args) => slurm::run(args, settings),
    }
}

/// What of `raw`, the words of a command line, is not for `ctseg submit` itself: neither its `commands`, in this order,
/// nor the options in `own` (names, and whether a value follows).
fn passed_on(raw: &[String], commands: &[&str], own: &[(String, bool)]) -> Vec<String> {
    let (mut commands, mut words) = (commands.iter().peekable(), raw.iter());
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        if commands.next_if(|command| *command == word).is_some() {
            continue;
        }
        if word == "--" {
            rest.push(word.clone());
            rest.extend(words.cloned());
            break;
        }
        let option = word
            .strip_prefix("--")
            .map(|option| match option.split_once('=') {
                Some((name, _)) => (name, true),
                None => (option, false),
            });
        let known = option.and_then(|(name, has_value)| {
            let (_, takes_value) = own.iter().find(|(own, _)| own == name)?;
            Some(*takes_value && !has_value)
        });
        match known {
            Some(true) => drop(words.next()),
            Some(false) => {}
            None => rest.push(word.clone()),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_the_job_is_told_from_what_is_for_sbatch() {
        let own =
            [("time", true), ("dry-run", false)].map(|(name, value)| (name.to_owned(), value));
        for (raw, rest) in [
            (
                "--device flex submit slurm predict a --time 4h -o predict --dry-run --time=4h --tta",
                "--device flex a -o predict --tta",
            ),
            ("submit slurm predict -- --time x", "-- --time x"),
            ("submit slurm predict submit --timed", "submit --timed"),
        ] {
            let raw: Vec<String> = raw.split(' ').map(str::to_owned).collect();
            let found = passed_on(&raw, &["submit", "slurm", "predict"], &own);
            assert_eq!(found.join(" "), rest);
        }
    }
}
