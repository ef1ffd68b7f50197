//! `ctseg.toml`: what would otherwise be repeated on every command line.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::args::devices::Devices;
use super::env::is_variable;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_core::recipe::one_line;
use ctseg_engine::precision::PrecisionChoice;
use ctseg_tracking::mlflow::settings::Preferences;

pub const FILE: &str = "ctseg.toml";

/// The settings file; paths in it are relative to its folder. Flags and `CTSEG_*` variables beat it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Dataset folder or descriptor.
    pub data: Option<PathBuf>,
    /// Folder that a descriptor's paths are relative to.
    pub data_root: Option<PathBuf>,
    /// Folder of the model.
    pub model: Option<PathBuf>,
    /// Folder for run folders.
    pub runs: Option<PathBuf>,
    /// Folder for prepared cases.
    pub case_cache: Option<PathBuf>,
    /// The most that it may hold, such as "50G".
    pub case_cache_size: Option<String>,
    /// Folder on a disk of this machine that training cases are copied to, or "$TMPDIR".
    pub scratch: Option<PathBuf>,
    device: Option<String>,
    precision: Option<String>,
    #[serde(default)]
    mlflow: Tracking,
}

/// Section `[mlflow]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tracking {
    /// The server's address.
    uri: Option<String>,
    /// The experiment that runs belong to.
    experiment: Option<String>,
    /// The name that models are registered under.
    model: Option<String>,
}

impl Config {
    /// Reads `path`, or `ctseg.toml` in the working folder if there is one.
    pub fn read(path: Option<&Path>) -> Result<Self> {
        let file = match path {
            Some(path) => path,
            None if Path::new(FILE).exists() => Path::new(FILE),
            None => return Ok(Self::default()),
        };
        let text = read_text(file).map_err(Error::io(file, "read"))?;
        let mut config: Self =
            toml::from_str(&text).map_err(|error| Error::file(file, one_line(&error)))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        for path in [
            &mut config.data,
            &mut config.data_root,
            &mut config.model,
            &mut config.runs,
            &mut config.case_cache,
            &mut config.scratch,
        ]
        .into_iter()
        .flatten()
        .filter(|path| !is_variable(path))
        {
            *path = folder.join(&*path);
        }
        Ok(config)
    }

    pub fn devices(&self) -> Result<Devices> {
        self.device.as_deref().unwrap_or("auto").parse()
    }

    pub fn precision(&self) -> Result<PrecisionChoice> {
        self.precision
            .as_deref()
            .map_or(Ok(PrecisionChoice::Auto), str::parse)
    }

    /// The tracking server, as far as the file names it; runs go into `experiment` if that is named.
    pub fn tracking(&self, experiment: Option<&str>) -> Preferences {
        let experiment = experiment.or(self.mlflow.experiment.as_deref());
        Preferences {
            uri: self.mlflow.uri.clone(),
            experiment: experiment.map(str::to_owned),
            model: self.mlflow.model.clone(),
        }
    }

    /// The model folder: `flag`, else the file's, else `model` here.
    pub fn model_or(&self, flag: Option<PathBuf>) -> PathBuf {
        flag.or_else(|| self.model.clone())
            .unwrap_or_else(|| PathBuf::from("model"))
    }

    /// The folder for runs: `flag`, else the file's, else `runs` here.
    pub fn runs_or(&self, flag: Option<PathBuf>) -> PathBuf {
        flag.or_else(|| self.runs.clone())
            .unwrap_or_else(|| PathBuf::from("runs"))
    }
}
