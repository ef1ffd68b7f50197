//! The command line of `ctseg submit`: which arguments are passed to the job, and whether ctseg accepts them.

use clap::{Args, Command};

use super::checks;
use super::plan::JobArgs;
use super::plan::TaskArgs;
use ctseg_base::{Error, Result};

/// The arguments of this process, and the definition of the command line.
pub struct CommandLine {
    /// Without the program's name.
    words: Vec<String>,
    command: Command,
}

impl CommandLine {
    /// The command line of this process.
    ///
    /// # Errors
    /// An argument is not UTF-8.
    pub fn of_process(command: Command) -> Result<Self> {
        let words = checks::words()?;
        Ok(Self { words, command })
    }

    /// The arguments for ctseg in the job; the options in `without` reach it in another way.
    pub fn arguments(&self, command: &str, without: &[&str]) -> Vec<String> {
        let mut own = options_of::<JobArgs>();
        own.extend(options_of::<TaskArgs>());
        own.extend(without.iter().map(|name| ((*name).to_owned(), true)));
        own.push(("json".to_owned(), false));
        passed_on(&self.words, &["submit", "slurm", command], &own)
    }

    /// Checks the job's arguments now, not after hours in the queue.
    ///
    /// # Errors
    /// ctseg does not accept them.
    pub fn check(&self, command: &str, more: &[&str], arguments: &[String]) -> Result<()> {
        let words = ["ctseg", command].into_iter().chain(more.iter().copied());
        let words = words.chain(arguments.iter().map(String::as_str));
        match self.command.clone().try_get_matches_from(words) {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = error.to_string();
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                let first: Vec<&str> = lines.take(2).collect();
                Err(Error::usage(format!(
                    "ctseg {command}: {}",
                    first.join(" ")
                )))
            }
        }
    }
}

/// Names of the options of `T`, each with whether it takes a value.
fn options_of<T: Args>() -> Vec<(String, bool)> {
    let command = T::augment_args(clap::Command::new("ctseg"));
    let arguments = command.get_arguments();
    let named = arguments.filter_map(|argument| {
        let takes_value = argument.get_action().takes_values();
        Some((argument.get_long()?.to_owned(), takes_value))
    });
    named.collect()
}

/// The arguments in `raw` that are not for `ctseg submit` itself: neither its `commands`, in this order, nor the
/// options in `own` (name, whether it takes a value).
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
    fn arguments_of_the_job_and_of_sbatch_are_separated() {
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
