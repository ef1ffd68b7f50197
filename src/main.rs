//! The `ctseg` command.

use std::process::ExitCode;

use clap::Parser;
use ctseg::cli::{Cli, exit_code_of};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code_of(&error).into()
        }
    }
}
