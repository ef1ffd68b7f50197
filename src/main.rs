//! The `ctseg` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use ctseg::cli::{Cli, exit_code_of};
use ctseg_base::limits::threads::share_one_heap_below_a_limit;

fn main() -> ExitCode {
    share_one_heap_below_a_limit();
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
