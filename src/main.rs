//! The `ctseg` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use ctseg::cli::{Cli, exit_code_of};

fn main() -> ExitCode {
    let cli = Cli::of_process();
    let log = cli.log();
    log.log_panics();
    match cli.run() {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            let outcome = exit_code_of(&error);
            log.error(&format!("{error:#}"), outcome.exit_code());
            outcome.into()
        }
    }
}
