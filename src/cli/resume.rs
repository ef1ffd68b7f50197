//! What `--resume` takes from the command line, and what it refuses.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::settings::Settings;
use ctseg_base::{Error, Result};

/// Flags that stand on the command line itself, not those that the environment or a default gives, by clap's ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(BTreeSet<String>);

impl Given {
    /// Those of the subcommand in `matches`.
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        let Some((_, command)) = matches.subcommand() else {
            return Self::default();
        };
        let given = command
            .ids()
            .map(clap::Id::as_str)
            .filter(|id| command.value_source(id) == Some(ValueSource::CommandLine));
        Self(given.map(str::to_owned).collect())
    }

    /// Whether the flag with this id is among them.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    /// Refuses flags that `--resume` cannot honour: `own` are their ids, each with what is stored with the run instead.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the first of them.
    pub(crate) fn refuse_with_resume(&self, own: &[(&str, &str)]) -> Result<()> {
        let Some((id, what)) = own.iter().find(|(id, _)| self.has(id)) else {
            return Ok(());
        };
        Err(Error::usage(format!(
            "--{} cannot be used with --resume, which continues with {what}; leave the flag out, or begin anew without --resume",
            id.replace('_', "-")
        )))
    }
}

/// Flags about MLflow that `--resume` cannot honour, see [`Given::refuse_with_resume`].
pub(crate) const TRACKED_ALREADY: [(&str, &str); 3] = [
    ("experiment", "the run's own MLflow run"),
    ("mlflow_parent_run", "the run's own MLflow run"),
    ("mlflow_group", "the run's own MLflow run"),
];

/// Dataset and data root of what is resumed: as `named` by flags on the command line, else as `stored`. Where there is
/// nothing at the stored place, as of a job that sees other mounts, what environment and settings file name is taken.
///
/// # Errors
/// None of them is there.
pub(crate) fn moved_data(
    given: &Given,
    stored: (PathBuf, Option<PathBuf>),
    named: (Option<PathBuf>, Option<PathBuf>),
    settings: &Settings,
) -> Result<(PathBuf, Option<PathBuf>)> {
    let config = &settings.config;
    let (data, data_root) = named;
    let (dataset, stored_root) = stored;
    let is_moved = given.has("data") || !dataset.exists();
    let moved = data.or_else(|| config.data.clone());
    if let Some(moved) = moved.filter(|moved| is_moved && (given.has("data") || moved.exists())) {
        return Ok((moved, data_root.or_else(|| config.data_root.clone())));
    }
    if is_moved {
        return Err(Error::file(
            &dataset,
            "the dataset is not where it was; name where it lies now with --data DATASET",
        ));
    }
    let data_root = data_root.filter(|_| given.has("data_root"));
    Ok((dataset, data_root.or(stored_root)))
}
