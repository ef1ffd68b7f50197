//! `--help` of every command, as users see it on a terminal of 100 columns.

use clap::{Command, CommandFactory};

/// Width and values of environment variables do not depend on the machine.
fn fixed(command: Command) -> Command {
    command
        .term_width(100)
        .mut_args(|argument| argument.hide_env_values(true))
        .mut_subcommands(fixed)
}

/// The help of the commands below `command`, each followed by those below it.
fn pages_below(command: &Command) -> String {
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    let pages = shown.filter(|one| one.get_name() != "help").map(|one| {
        let name = one.get_bin_name().unwrap_or_default();
        let help = one.clone().render_long_help();
        format!("$ {name} --help\n{help}\n{}", pages_below(one))
    });
    pages.collect()
}

#[test]
fn help_is_that_of_the_snapshots() {
    let mut command = fixed(ctseg::cli::Cli::command());
    command.build();
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("help", command.render_long_help());
        insta::assert_snapshot!("help_of_commands", pages_below(&command));
    });
}
