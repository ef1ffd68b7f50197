//! Which flags `--resume` accepts and which it refuses.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::settings::Settings;
use ctseg_base::{Error, Result};

/// IDs of the flags given on the command line itself, not by the environment or a default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(BTreeSet<String>);

impl Given {
    /// The flags of the subcommand in `matches`.
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

    /// Whether the flag with this ID was given.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    /// Refuses flags that conflict with `--resume`: `own` has their IDs, each with what the stored run uses instead.
    ///
    /// # Errors
    /// [`Error::Usage`] for the first such flag.
    pub(crate) fn refuse_with_resume(&self, own: &[(&str, &str)]) -> Result<()> {
        let Some((id, what)) = own.iter().find(|(id, _)| self.has(id)) else {
            return Ok(());
        };
        Err(Error::usage(format!(
            "--{} cannot be used with --resume, which uses {what}; omit the flag, or start a new run without --resume",
            id.replace('_', "-")
        )))
    }
}

/// MLflow flags that conflict with `--resume`, see [`Given::refuse_with_resume`].
pub(crate) const TRACKED_ALREADY: [(&str, &str); 3] = [
    ("experiment", "the run's own MLflow run"),
    ("mlflow_parent_run", "the run's own MLflow run"),
    ("mlflow_group", "the run's own MLflow run"),
];

/// A dataset, and the folder that a descriptor's paths are relative to.
pub(crate) struct DataPaths {
    pub data: PathBuf,
    pub data_root: Option<PathBuf>,
}

/// The dataset of the resumed run: from flags on the command line (`data`, `data_root`), otherwise as `stored`. If the
/// stored path does not exist, as in a job with other mounts, those of environment and settings file are used.
///
/// # Errors
/// None of them exists.
pub(crate) fn moved_data(
    given: &Given,
    stored: DataPaths,
    data: Option<PathBuf>,
    data_root: Option<PathBuf>,
    settings: &Settings,
) -> Result<DataPaths> {
    let config = &settings.config;
    let is_moved = given.has("data") || !stored.data.exists();
    let moved = data.or_else(|| config.data.clone());
    if let Some(moved) = moved.filter(|moved| is_moved && (given.has("data") || moved.exists())) {
        return Ok(DataPaths {
            data: moved,
            data_root: data_root.or_else(|| config.data_root.clone()),
        });
    }
    if is_moved {
        return Err(Error::file(
            &stored.data,
            "dataset not found; if it was moved, pass its new path with --data DATASET",
        ));
    }
    let data_root = data_root.filter(|_| given.has("data_root"));
    Ok(DataPaths {
        data: stored.data,
        data_root: data_root.or(stored.data_root),
    })
}
