//! The command list of `ctseg --help` and `ctseg help`, grouped by task.

use std::fmt::Write;

use clap::Command;
use clap::builder::StyledStr;

/// The groups, and the commands of each in the order in which they are used.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Train", &["demo", "plan", "fit", "sweep"]),
    ("Predict", &["predict"]),
    ("Evaluate", &["evaluate", "report"]),
    ("Models", &["import", "export", "quantize"]),
    ("Data", &["inspect", "convert"]),
    ("Cluster and monitoring", &["submit", "status", "sync"]),
    ("Machine", &["doctor", "bench"]),
];

/// `command` with its subcommands listed in groups.
pub(super) fn grouped(command: Command) -> Command {
    let template = template(&command);
    command.help_template(template)
}

/// Clap's help template with the groups in place of its own list.
fn template(command: &Command) -> StyledStr {
    let styles = command.get_styles();
    let (heading, literal) = (styles.get_header(), styles.get_literal());
    let width = names().map(str::len).max().unwrap_or(0);
    let mut text = StyledStr::from("{about-with-newline}\n{usage-heading} {usage}\n\n");
    for (group, names) in GROUPS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{heading}{group}:{heading:#}");
        for name in names {
            let subcommand = command.find_subcommand(name);
            let about = subcommand.and_then(Command::get_about).cloned();
            let about = about.unwrap_or_default();
            let _ = writeln!(text, "  {literal}{name:width$}{literal:#}  {about}");
        }
        let _ = writeln!(text);
    }
    let _ = write!(
        text,
        "{literal}ctseg help COMMAND{literal:#} shows the options of a command.\n\n\
         {heading}Options:{heading:#}\n{{options}}{{after-help}}"
    );
    text
}

/// The commands of all groups.
fn names() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|(_, names)| names.iter().copied())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_is_in_one_group() {
        let command = Cli::command();
        let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
        let mut shown: Vec<&str> = shown.map(Command::get_name).collect();
        let mut grouped: Vec<&str> = names().collect();
        shown.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(grouped, shown);
    }

    #[test]
    fn every_command_is_one_line_of_help() {
        let help = Cli::parser().render_long_help().to_string();
        assert!(
            !help.contains("Commands:") && !help.contains("calibrate"),
            "{help}"
        );
        for name in names() {
            let lines = help
                .lines()
                .filter(|line| line.starts_with(&format!("  {name} ")));
            let lines: Vec<&str> = lines.collect();
            let [line] = lines.as_slice() else {
                panic!("{name}: {lines:?}");
            };
            let (_, about) = line.trim_start().split_once(' ').unwrap();
            assert!(about.trim().starts_with(char::is_uppercase), "{line}");
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
