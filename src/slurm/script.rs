//! Job scripts: those of scripts/slurm, completed with the options, environment and arguments of one job.

use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Predict,
    Fit,
    FitFolds,
    Evaluate,
}

/// One job, or one array of jobs.
#[derive(Debug, Clone)]
pub struct Job {
    pub work: Work,
    /// Options of sbatch, such as `mem` and `16G`; the value is empty for options that take none. They replace those of
    /// the script.
    pub options: Vec<(String, String)>,
    pub environment: Vec<(String, String)>,
    pub arguments: Vec<String>,
}

/// The first line after the options.
const AFTER_OPTIONS: &str = "set -euo pipefail";
const OPTION: &str = "#SBATCH --";

impl Work {
    fn template(self) -> &'static str {
        match self {
            Self::Predict => include_str!("../../scripts/slurm/predict.sbatch"),
            Self::Fit => include_str!("../../scripts/slurm/fit.sbatch"),
            Self::FitFolds => include_str!("../../scripts/slurm/fit-folds.sbatch"),
            Self::Evaluate => include_str!("../../scripts/slurm/evaluate.sbatch"),
        }
    }
}

impl Job {
    /// The value of an sbatch option, of the job or of its script.
    pub fn option(&self, name: &str) -> Option<&str> {
        let mut own = self.options.iter().rev();
        if let Some((_, value)) = own.find(|(own, _)| own == name) {
            return Some(value);
        }
        let lines = self.work.template().lines();
        let mut of_script = lines.filter_map(option_of);
        of_script
            .find(|(own, _)| *own == name)
            .map(|(_, value)| value)
    }

    pub fn name(&self) -> &str {
        self.option("job-name").unwrap_or("ctseg")
    }

    /// The script; `program` is the path of `ctseg`.
    pub fn script(&self, program: &Path) -> String {
        let mut text = String::new();
        let mut is_complete = false;
        let is_replaced = |line: &str| {
            option_of(line).is_some_and(|(name, _)| self.options.iter().any(|(own, _)| own == name))
        };
        for line in self.work.template().lines() {
            if is_replaced(line) {
                continue;
            }
            if line == AFTER_OPTIONS && !is_complete {
                is_complete = true;
                self.options
                    .iter()
                    .for_each(|option| text += &written(option));
                text = text + line + "\n" + &self.setup(program);
                continue;
            }
            text = text + line + "\n";
        }
        text
    }

    /// Environment and arguments of the job, as lines of shell.
    fn setup(&self, program: &Path) -> String {
        let mut text = "\n# Set by 'ctseg submit'.\n".to_owned();
        if let Some(folder) = program.parent() {
            let folder = quoted(&folder.display().to_string());
            text += &format!("export PATH={folder}:\"$PATH\"\n");
        }
        for (name, value) in &self.environment {
            text += &format!("export {name}={}\n", quoted(value));
        }
        let arguments: Vec<String> = self.arguments.iter().map(|text| quoted(text)).collect();
        text + &format!("set -- {}\n", arguments.join(" "))
    }

    /// The log file of the job with this ID; a shell pattern for an array.
    pub fn log(&self, id: &str) -> String {
        let pattern = self.option("output").unwrap_or("slurm-%j.out");
        pattern
            .replace("%x", self.name())
            .replace("%j", id)
            .replace("%A", id)
            .replace("%a", "*")
    }
}

/// Name and value of the sbatch option in a line of a script.
pub(super) fn option_of(line: &str) -> Option<(&str, &str)> {
    let option = line.strip_prefix(OPTION)?;
    Some(option.split_once('=').unwrap_or((option, "")))
}

fn written((name, value): &(String, String)) -> String {
    match value.as_str() {
        "" => format!("{OPTION}{name}\n"),
        value if value.contains(char::is_whitespace) => format!("{OPTION}{name}=\"{value}\"\n"),
        value => format!("{OPTION}{name}={value}\n"),
    }
}

/// A word quoted for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(work: Work) -> Job {
        let options = [("mem", "64G"), ("exclusive", ""), ("comment", "a b")];
        Job {
            work,
            options: options
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            environment: vec![("CTSEG_CLAIM".to_owned(), "/data/it's".to_owned())],
            arguments: vec!["a b".to_owned(), "$HOME".to_owned()],
        }
    }

    #[test]
    fn every_script_takes_options_environment_and_arguments() {
        for work in [Work::Predict, Work::Fit, Work::FitFolds, Work::Evaluate] {
            let job = job(work);
            let text = job.script(Path::new("/opt/ctseg/bin/ctseg"));
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0], "#!/usr/bin/env bash");
            let at = |wanted: &str| {
                let mut found = lines
                    .iter()
                    .enumerate()
                    .filter(|(_, line)| **line == wanted);
                let place = found.next().map(|(index, _)| index);
                assert!(found.next().is_none(), "{work:?}: '{wanted}' twice");
                place.unwrap_or_else(|| panic!("{work:?}: no '{wanted}' in\n{text}"))
            };
            let begins = at("set -euo pipefail");
            for option in ["mem=64G", "exclusive", "comment=\"a b\"", "requeue"] {
                assert!(at(&format!("#SBATCH --{option}")) < begins);
            }
            let set = at("set -- 'a b' '$HOME'");
            for export in [
                "export PATH='/opt/ctseg/bin':\"$PATH\"",
                r"export CTSEG_CLAIM='/data/it'\''s'",
            ] {
                let export = at(export);
                assert!(begins < export && export < set);
            }
            assert_eq!(lines.iter().filter(|l| l.contains("--mem=")).count(), 1);
        }
        let job = job(Work::Predict);
        assert_eq!(
            (job.option("mem"), job.option("array")),
            (Some("64G"), Some("1-8"))
        );
        assert_eq!(job.log("12"), "ctseg-predict-12_*.log");
    }
}
