//! The folder of one training run: recipe, data, metrics, log, checkpoints.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint::CheckpointFolder;
use super::data::RunData;
use super::history::{self, EpochLine};
use super::tracker::{EpochRecord, RunIdentity, Tracker};
use crate::dataset::Reading;
use crate::recipe::Recipe;
use ctseg_base::atomic_file::{create_folder, write_bytes_atomically};
use ctseg_base::temp_files::remove_stale_temp_files_below;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result, regular_file};

pub const PLOTS: &str = "plots";

/// What a run needs for resuming, besides its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    pub dataset: PathBuf,
    pub data_root: Option<PathBuf>,
    pub model: PathBuf,
    pub seed: u64,
    /// The model that the weights were initialised from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Checksum of the stage 1 whose regions of interest the run trains on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage1_sha256: Option<String>,
    pub ctseg_version: String,
    /// Device and precision; weights depend on them.
    #[serde(default)]
    pub engine: String,
    /// The sweep's name, if the run is a trial of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How the dataset's files are read.
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
}

/// `runs/<time>-<name>/`.
pub struct RunFolder {
    path: PathBuf,
    name: String,
    parent: Option<String>,
    metrics: File,
}

impl RunFolder {
    /// Creates a folder under `runs`, named after time, network, loss, optimiser and patch size.
    pub fn create(
        runs: &Path,
        recipe: &Recipe,
        settings: &RunSettings,
        data: &RunData,
    ) -> Result<Self> {
        let path = new_folder(runs, &format!("{}_{}", recipe.name, run_name(recipe)))?;
        Self::initialise(path, recipe, settings, data)
    }

    /// Creates the run in the folder `path`, which is created if missing.
    pub fn create_at(
        path: &Path,
        recipe: &Recipe,
        settings: &RunSettings,
        data: &RunData,
    ) -> Result<Self> {
        create_folder(path)?;
        Self::initialise(path.to_path_buf(), recipe, settings, data)
    }

    fn initialise(
        path: PathBuf,
        recipe: &Recipe,
        settings: &RunSettings,
        data: &RunData,
    ) -> Result<Self> {
        data.write(&path)?;
        write_recipe(&path, recipe)?;
        write_settings(&path, settings)?; // last: it marks the folder as a run's
        Self::open(path, settings.parent.clone())
    }

    /// Stores a changed recipe and settings.
    pub fn update(&self, recipe: &Recipe, settings: &RunSettings) -> Result<()> {
        write_settings(&self.path, settings)?;
        write_recipe(&self.path, recipe)
    }

    /// Opens the folder of an earlier run for resuming; returns its recipe and settings too. Temporary files of killed
    /// processes are removed.
    pub fn resume(path: &Path) -> Result<(Self, Recipe, RunSettings)> {
        let (recipe, settings) = Self::read(path)?;
        remove_stale_temp_files_below(path);
        let run = Self::open(path.to_path_buf(), settings.parent.clone())?;
        Ok((run, recipe, settings))
    }

    pub fn read(path: &Path) -> Result<(Recipe, RunSettings)> {
        let read = |name: &str| {
            let file = path.join(name);
            read_text(&file).map_err(Error::io(&file, "read"))
        };
        let recipe = Recipe::parsed(
            &read("recipe.toml")?,
            &path.join("recipe.toml").to_string_lossy(),
            &[],
        )?;
        let settings = toml::from_str(&read("run.toml")?)
            .map_err(|error| Error::file(path.join("run.toml"), crate::recipe::one_line(&error)))?;
        Ok((recipe, settings))
    }

    fn open(path: PathBuf, parent: Option<String>) -> Result<Self> {
        let file = path.join(history::FILE);
        let incomplete =
            regular_file::read(&file).is_ok_and(|text| text.last().is_some_and(|b| *b != b'\n'));
        let mut metrics = append_to(&file)?;
        if incomplete {
            metrics
                .write_all(b"\n")
                .map_err(Error::io(&file, "append to"))?;
        }
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Self {
            path,
            name,
            parent,
            metrics,
        })
    }

    /// The run's identity, for trackers.
    pub fn identity(&self) -> RunIdentity<'_> {
        RunIdentity {
            name: &self.name,
            folder: &self.path,
            parent: self.parent.as_deref(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a JSON file into the run's folder.
    pub fn write_json(&self, name: &str, value: &serde_json::Value) -> Result<()> {
        write_bytes_atomically(&self.path.join(name), format!("{value:#}\n").as_bytes())
    }

    /// The log file, opened for appending.
    pub fn log_file(&self) -> Result<File> {
        append_to(&self.path.join("log.txt"))
    }

    /// Fails if `network` was trained here and its checkpoints are missing: a resumed run must not silently
    /// start it again.
    pub fn check_not_lost(&self, network: &str, checkpoints: &CheckpointFolder) -> Result<()> {
        let was_trained = history::read(&self.path)?.contains_key(network);
        if was_trained && !checkpoints.last().exists() && !checkpoints.previous().exists() {
            return Err(Error::file(
                checkpoints.last(),
                format!(
                    "is missing although {network} was trained before; start a new run without --resume"
                ),
            ));
        }
        Ok(())
    }

    pub fn checkpoints(&self, fold: usize) -> CheckpointFolder {
        CheckpointFolder::new(self.path.join("checkpoints").join(format!("fold_{fold}")))
    }
}

impl Tracker for RunFolder {
    fn log_epoch(&self, record: &EpochRecord) -> Result<()> {
        let path = self.path.join(history::FILE);
        let line = serde_json::to_string(&EpochLine::of(record))
            .map_err(|error| Error::file(&path, format!("cannot serialise an epoch: {error}")))?;
        // One write per line, so that a kill leaves complete lines.
        (&self.metrics)
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| self.metrics.sync_data())
            .map_err(Error::io(&path, "append to"))
    }
}

/// Creates a folder `<time>-<name>` in `runs`.
pub fn new_folder(runs: &Path, name: &str) -> Result<PathBuf> {
    let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
    unique_folder(runs, &format!("{time}-{name}"))
}

/// Creates a folder `name` in `parent`, with a number appended if the name is taken.
fn unique_folder(parent: &Path, name: &str) -> Result<PathBuf> {
    create_folder(parent)?;
    // Two runs may start in the same second; `create_dir` succeeds for only one of them.
    let names = (0..1000).map(|n| match n {
        0 => parent.join(name),
        n => parent.join(format!("{name}-{n}")),
    });
    for path in names {
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(&path, "create the run folder")(error)),
        }
    }
    let problem = format!(
        "contains 1000 runs that started in the same second, {name}-…; choose another folder"
    );
    Err(Error::file(parent, problem))
}

/// `<network>_<loss>_<optimiser>_<size>`, e.g. `unet2d_bce-dice_adam_256`.
pub fn run_name(recipe: &Recipe) -> String {
    format!(
        "{}_{}_{}_{}",
        recipe.network.name(),
        recipe.training.loss.name(),
        recipe.training.optimiser.kind.name(),
        recipe.training.patch_size.sides()[0]
    )
}

fn write_recipe(run: &Path, recipe: &Recipe) -> Result<()> {
    write_bytes_atomically(&run.join("recipe.toml"), recipe.to_toml()?.as_bytes())
}

fn write_settings(run: &Path, settings: &RunSettings) -> Result<()> {
    let path = run.join("run.toml");
    let text = toml::to_string(settings)
        .map_err(|error| Error::file(&path, format!("cannot serialise the settings: {error}")))?;
    write_bytes_atomically(&path, text.as_bytes())
}

fn append_to(path: &Path) -> Result<File> {
    regular_file::append_to(path).map_err(Error::io(path, "append to"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_base::process::id::ProcessId;

    #[test]
    fn resuming_removes_temporary_files_of_killed_processes() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        let settings = RunSettings {
            dataset: "data".into(),
            data_root: None,
            model: "model".into(),
            seed: 1,
            from: None,
            stage1_sha256: None,
            ctseg_version: String::new(),
            engine: String::new(),
            parent: None,
            reading: Reading::default(),
        };
        write_recipe(run, &Recipe::named("1", &[]).unwrap()).unwrap();
        write_settings(run, &settings).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let own = ProcessId::current().to_string();
        let [before, after] = [std::process::id(), child.id()].map(|id| format!("-{id}-"));
        child.wait().unwrap();
        let dead = format!(".ctseg-{}-abcdef", own.replace(&before, &after));
        let file = |name: &str| {
            let path = run.join("checkpoints/fold_0").join(name);
            write_bytes_atomically(&path, b"half").unwrap();
            path
        };
        let stays = [
            file("last.safetensors"),
            file(&format!(".ctseg-{own}-abcdef")),
        ];
        let goes = [file(&dead), file(&format!("{dead}g/inside"))];
        RunFolder::resume(run).unwrap();
        assert!(stays.iter().all(|path| path.exists()), "{stays:?}");
        assert!(goes.iter().all(|path| !path.exists()), "{goes:?}");
        assert!(!goes[1].parent().unwrap().exists());
    }
}
