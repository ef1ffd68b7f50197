//! The folder of one training run: recipe, metrics, log, checkpoints.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint::{CheckpointFolder, Progress};
use super::recipe::Recipe;
use super::tracker::Tracker;
use super::validation::Validation;
use crate::error::{Error, Result};
use crate::files::write_bytes_atomically;

/// What a run needs to be resumed, beside its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    pub dataset: PathBuf,
    pub data_root: Option<PathBuf>,
    pub model: PathBuf,
    pub seed: u64,
    /// The model whose weights the run began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    pub ctseg_version: String,
    /// Device and precision; another one gives other weights.
    #[serde(default)]
    pub engine: String,
}

/// `runs/<time>-<name>/`.
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
}

impl RunFolder {
    /// A new folder under `runs`, named by the time and by network, loss, optimiser and patch size.
    pub fn create(runs: &Path, recipe: &Recipe, settings: &RunSettings) -> Result<Self> {
        let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
        let name = format!("{time}-{}_{}", recipe.name, run_name(recipe));
        std::fs::create_dir_all(runs).map_err(Error::io(runs, "create the folder"))?;
        // Two runs may begin in one second; `create_dir` tells which was first.
        let path = (0..1000)
            .map(|n| {
                runs.join(if n == 0 {
                    name.clone()
                } else {
                    format!("{name}-{n}")
                })
            })
            .find(|path| std::fs::create_dir(path).is_ok())
            .ok_or_else(|| {
                Error::file(
                    runs,
                    "cannot create a run folder here; expected a folder that can be written",
                )
            })?;
        write_bytes_atomically(&path.join("recipe.toml"), recipe.to_toml()?.as_bytes())?;
        let text = toml::to_string(settings)
            .map_err(|error| Error::file(&path, format!("cannot write the settings: {error}")))?;
        write_bytes_atomically(&path.join("run.toml"), text.as_bytes())?;
        Self::opened(path)
    }

    /// The folder of an earlier run, to go on with, and what it was started with.
    pub fn resume(path: &Path) -> Result<(Self, Recipe, RunSettings)> {
        let read = |name: &str| {
            let file = path.join(name);
            std::fs::read_to_string(&file).map_err(Error::io(&file, "read"))
        };
        let recipe = Recipe::parsed(
            &read("recipe.toml")?,
            &path.join("recipe.toml").to_string_lossy(),
            &[],
        )?;
        let settings = toml::from_str(&read("run.toml")?)
            .map_err(|error| Error::file(path.join("run.toml"), super::recipe::one_line(&error)))?;
        Ok((Self::opened(path.to_path_buf())?, recipe, settings))
    }

    fn opened(path: PathBuf) -> Result<Self> {
        let metrics = append_to(&path.join("metrics.jsonl"))?;
        Ok(Self { path, metrics })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes figures of the run beside its metrics.
    pub fn write_json(&self, name: &str, value: &serde_json::Value) -> Result<()> {
        write_bytes_atomically(&self.path.join(name), format!("{value:#}\n").as_bytes())
    }

    /// Where a log of what was said may be appended to.
    pub fn log_file(&self) -> Result<File> {
        append_to(&self.path.join("log.txt"))
    }

    /// The checkpoints of one fold.
    pub fn checkpoints(&self, fold: usize) -> CheckpointFolder {
        CheckpointFolder::new(self.path.join("checkpoints").join(format!("fold_{fold}")))
    }
}

impl Tracker for RunFolder {
    fn epoch(
        &mut self,
        name: &str,
        progress: &Progress,
        mean_loss: f64,
        learning_rate: f64,
        validation: &Validation,
    ) -> Result<()> {
        let line = serde_json::json!({
            "network": name,
            "epoch": progress.epoch,
            "seconds": progress.seconds,
            "loss": mean_loss,
            "learning_rate": learning_rate,
            "validation_dice": validation.dice,
            "validation_dice_per_structure": validation.dice_per_map,
            "validation_iou": validation.iou,
            "validation_loss": validation.loss,
            "ended": progress.ended,
        });
        // One write per line: a kill leaves whole lines.
        self.metrics
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| self.metrics.sync_data())
            .map_err(Error::io(self.path.join("metrics.jsonl"), "append to"))
    }
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

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(Error::io(path, "append to"))
}
