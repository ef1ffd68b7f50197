//! Settings files: `ctseg.toml`, and the user configuration as its fallback.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::args::devices::Devices;
use super::env::is_variable;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_core::recipe::one_line;
use ctseg_engine::precision::PrecisionChoice;
use ctseg_tracking::mlflow::settings::Preferences;
use ctseg_tracking::mlflow::trusted::server_url;

pub const FILE: &str = "ctseg.toml";

/// Relative to `~/.config`.
const USER_FILE: &str = "ctseg/config.toml";

/// The settings files. Paths are relative to the folder of their file. Flags and `CTSEG_*` variables take precedence.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Dataset folder or descriptor.
    pub data: Option<PathBuf>,
    /// Base folder for relative paths in a descriptor.
    pub data_root: Option<PathBuf>,
    pub model: Option<PathBuf>,
    /// Folder for run folders.
    pub runs: Option<PathBuf>,
    /// Cache of preprocessed cases.
    pub case_cache: Option<PathBuf>,
    /// Its maximum size, such as "50G".
    pub case_cache_size: Option<String>,
    /// Local folder that training cases are copied to, or "$TMPDIR".
    pub scratch: Option<PathBuf>,
    device: Option<String>,
    precision: Option<String>,
    /// Servers that may receive the user's login; refused in a file that the user did not choose.
    #[serde(default)]
    trusted_servers: Vec<String>,
    #[serde(default)]
    mlflow: Tracking,
}

/// Section `[mlflow]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tracking {
    /// The server's address.
    uri: Option<String>,
    /// The file that sets it, if that was found in the working folder.
    #[serde(skip)]
    found_in: Option<PathBuf>,
    /// The experiment of runs.
    experiment: Option<String>,
    /// The name that models are registered under.
    model: Option<String>,
    /// Local folder below which the server may store artifacts; refused in a file that the user did not choose.
    artifact_root: Option<PathBuf>,
}

/// A settings file to read.
pub struct SettingsFile {
    pub path: PathBuf,
    /// Whether the user chose it.
    pub is_chosen: bool,
}

/// The settings files to read: `named`, or `ctseg.toml` in the working folder
/// (which may have come with a dataset), then the user configuration.
pub fn files(named: Option<&Path>) -> Vec<SettingsFile> {
    let chosen = |path: PathBuf| SettingsFile {
        path,
        is_chosen: true,
    };
    let here = || {
        let path = PathBuf::from(FILE);
        path.exists().then_some(SettingsFile {
            path,
            is_chosen: false,
        })
    };
    let near = named.map(|file| chosen(file.to_path_buf())).or_else(here);
    near.into_iter().chain(user_file().map(chosen)).collect()
}

/// `~/.config/ctseg/config.toml`, or in `XDG_CONFIG_HOME`, if it exists.
fn user_file() -> Option<PathBuf> {
    let folder = |variable: &str| {
        let set = std::env::var_os(variable).map(PathBuf::from);
        set.filter(|folder| folder.is_absolute())
    };
    let home = || Some(folder("HOME")?.join(".config"));
    let file = folder("XDG_CONFIG_HOME").or_else(home)?.join(USER_FILE);
    file.exists().then_some(file)
}

impl Config {
    /// Reads the files of [`files`]; the first one with a key wins.
    pub fn read(named: Option<&Path>) -> Result<Self> {
        let mut config = Self::default();
        for file in files(named) {
            config = config.over(Self::of_file(&file.path, file.is_chosen)?);
        }
        Ok(config)
    }

    fn of_file(file: &Path, is_chosen: bool) -> Result<Self> {
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
            &mut config.mlflow.artifact_root,
        ]
        .into_iter()
        .flatten()
        .filter(|path| !is_variable(path))
        {
            *path = folder.join(&*path);
        }
        config.checked(file, is_chosen)
    }

    /// Checks the content of `file` and records where its server was set.
    fn checked(mut self, file: &Path, is_chosen: bool) -> Result<Self> {
        if !is_chosen {
            self.mlflow.found_in = self.mlflow.uri.as_ref().map(|_| file.to_path_buf());
            if !self.trusted_servers.is_empty() || self.mlflow.artifact_root.is_some() {
                return Err(Error::file(
                    file,
                    "trusted_servers and [mlflow] artifact_root are read only from ~/.config/ctseg/config.toml or a \
                     file named with --config; move them there",
                ));
            }
            return Ok(self);
        }
        let mut servers = self.trusted_servers.iter();
        if let Some(text) = servers.find(|text| server_url(text).is_none()) {
            return Err(Error::file(
                file,
                format!(
                    "trusted_servers contains '{text}'; expected a server address such as https://host"
                ),
            ));
        }
        // Configuring a server implies trusting it.
        self.trusted_servers.extend(self.mlflow.uri.clone());
        Ok(self)
    }

    /// These settings, completed from `below`.
    fn over(self, below: Self) -> Self {
        let (own, other) = (self.mlflow, below.mlflow);
        let (uri, found_in) = match own.uri {
            Some(uri) => (Some(uri), own.found_in),
            None => (other.uri, other.found_in),
        };
        Self {
            data: self.data.or(below.data),
            data_root: self.data_root.or(below.data_root),
            model: self.model.or(below.model),
            runs: self.runs.or(below.runs),
            case_cache: self.case_cache.or(below.case_cache),
            case_cache_size: self.case_cache_size.or(below.case_cache_size),
            scratch: self.scratch.or(below.scratch),
            device: self.device.or(below.device),
            precision: self.precision.or(below.precision),
            trusted_servers: [self.trusted_servers, below.trusted_servers].concat(),
            mlflow: Tracking {
                uri,
                found_in,
                experiment: own.experiment.or(other.experiment),
                model: own.model.or(other.model),
                artifact_root: own.artifact_root.or(other.artifact_root),
            },
        }
    }

    pub fn devices(&self) -> Result<Devices> {
        self.device.as_deref().unwrap_or("auto").parse()
    }

    pub fn precision(&self) -> Result<PrecisionChoice> {
        self.precision
            .as_deref()
            .map_or(Ok(PrecisionChoice::Auto), str::parse)
    }

    /// The tracking server from the files, with `experiment` if given.
    pub fn tracking(&self, experiment: Option<&str>) -> Preferences {
        let experiment = experiment.or(self.mlflow.experiment.as_deref());
        Preferences {
            uri: self.mlflow.uri.clone(),
            found_in: self.mlflow.found_in.clone(),
            experiment: experiment.map(str::to_owned),
            model: self.mlflow.model.clone(),
            trusted_servers: self.trusted_servers.clone(),
            artifact_root: self.mlflow.artifact_root.clone(),
        }
    }

    /// The model folder: `flag`, the file's, or `model`.
    pub fn model_or(&self, flag: Option<PathBuf>) -> PathBuf {
        flag.or_else(|| self.model.clone())
            .unwrap_or_else(|| PathBuf::from("model"))
    }

    /// The folder for runs: `flag`, the file's, or `runs`.
    pub fn runs_or(&self, flag: Option<PathBuf>) -> PathBuf {
        flag.or_else(|| self.runs.clone())
            .unwrap_or_else(|| PathBuf::from("runs"))
    }
}
