//! `--help` of every command, as users see it on a terminal of 100 columns.

use clap::Command;

/// Width and values of environment variables do not depend on the machine.
fn fixed(command: Command) -> Command {
    command
        .term_width(100)
        .mut_args(|argument| argument.hide_env_values(true))
        .mut_subcommands(fixed)
}

/// What `COMMAND --help` prints.
fn help(command: &[&str]) -> String {
    let parser = fixed(ctseg::cli::Cli::parser());
    let help = parser.try_get_matches_from([command, &["--help"]].concat());
    help.unwrap_err().to_string()
}

/// The help of the commands below the last of `path`, each followed by those below it.
fn pages_below(command: &Command, path: &[&str]) -> String {
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    let pages = shown.map(|one| {
        let path = [path, &[one.get_name()]].concat();
        let (name, below) = (path.join(" "), pages_below(one, &path));
        format!("$ {name} --help\n{}\n{below}", help(&path))
    });
    pages.collect()
}

#[test]
fn help_is_that_of_the_snapshots() {
    let pages = pages_below(&ctseg::cli::Cli::parser(), &["ctseg"]);
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("help", help(&["ctseg"]));
        insta::assert_snapshot!("help_of_commands", pages);
    });
}
