//! Predictions and evaluations as runs of the tracking server, beside the trainings they depend on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::tracking::MlflowArgs;
use crate::cli::settings::Settings;
use ctseg_base::atomic_file::write_atomically;
use ctseg_base::progress::Observer;
use ctseg_base::regular_file;
use ctseg_base::{Error, Result};
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::run::folder::new_folder;
use ctseg_core::run::tracker::{Event, Outcome, Point, RunIdentity, Tracker};
use ctseg_tracking::mlflow::Mlflow;
use ctseg_tracking::provenance;

/// Options of commands that create a run only if they are tracked.
#[derive(Args)]
pub struct RecordArgs {
    /// Keep a run folder for 'ctseg sync' even without an MLflow server
    #[arg(long = "mlflow", conflicts_with = "no_mlflow")]
    wanted: bool,
    /// Folder for run folders [default: runs]
    #[arg(long, env = "CTSEG_RUNS")]
    runs: Option<PathBuf>,
    #[command(flatten)]
    mlflow: MlflowArgs,
}

impl RecordArgs {
    /// See [`MlflowArgs::check`].
    pub fn check(&self, settings: &Settings) -> Result<()> {
        self.mlflow.check(settings)
    }

    /// Starts the run `<time>-<name>` of this command if a server is configured or a run folder was requested.
    pub fn start(
        &self,
        name: &str,
        settings: &Settings,
        observer: &Arc<dyn Observer>,
    ) -> Result<Option<TrackedRun>> {
        if !self.wanted && !self.mlflow.names_server(settings) {
            return Ok(None);
        }
        let Some(mlflow) = self.mlflow.tracker(settings, observer)? else {
            return Ok(None);
        };
        let folder = new_folder(&settings.config.runs_or(self.runs.clone()), name)?;
        let run = TrackedRun {
            name: folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            folder,
            mlflow,
            observer: Arc::clone(observer),
        };
        run.or_warn(run.mlflow.run_started(&run.identity()));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let own = [("ctseg.kind", name.to_owned()), ("ctseg.version", version)];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        run.log(Event::Tags([provenance::tags(), own.to_vec()].concat()));
        Ok(Some(run))
    }
}

/// A tracked run. Tracking errors are warnings and never end the command.
pub struct TrackedRun {
    mlflow: Mlflow,
    folder: PathBuf,
    name: String,
    observer: Arc<dyn Observer>,
}

impl TrackedRun {
    fn identity(&self) -> RunIdentity<'_> {
        RunIdentity {
            name: &self.name,
            folder: &self.folder,
            parent: None,
        }
    }

    fn or_warn(&self, result: Result<()>) {
        if let Err(error) = result {
            self.observer.warn(&format!("not tracked: {error}"));
        }
    }

    fn log(&self, event: Event) {
        self.or_warn(self.mlflow.log_event(&event));
    }

    pub fn log_parameters(&self, parameters: &[(&str, String)]) {
        let parameters = parameters.iter();
        let parameters = parameters.map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.log(Event::Parameters(parameters.collect()));
    }

    /// Logs the models that the run depends on.
    pub fn log_models(&self, models: &[ModelUsed]) {
        let joined = |of: &dyn Fn(&ModelUsed) -> String| {
            let all: Vec<String> = models.iter().map(of).collect();
            all.join(",")
        };
        if models.is_empty() {
            return;
        }
        let path = |model: &ModelUsed| model.model.display().to_string();
        self.log(Event::Tags(vec![
            ("ctseg.model".to_owned(), joined(&path)),
            (
                "ctseg.model_sha256".to_owned(),
                joined(&|model| model.sha256.clone()),
            ),
        ]));
    }

    /// Logs metrics of the whole run.
    pub fn log_metrics(&self, values: Vec<(String, f64)>) {
        let points = vec![Point::now(0, values)];
        self.log(Event::Metrics {
            network: None,
            points,
        });
    }

    /// Logs copies of the files that exist as artifacts. The run folder holds all that 'ctseg sync' uploads, whatever
    /// becomes of the originals.
    pub fn log_artifacts(&self, paths: &[PathBuf]) {
        for path in paths.iter().filter(|path| path.exists()) {
            match self.copied(path) {
                Ok(path) => self.log(Event::Artifact {
                    path,
                    to: String::new(),
                }),
                Err(error) => self.or_warn(Err(error)),
            }
        }
    }

    fn copied(&self, path: &Path) -> Result<PathBuf> {
        let name = path.file_name().unwrap_or_default();
        let copy = self.folder.join("artifacts").join(name);
        let mut file = regular_file::open(path).map_err(Error::io(path, "read"))?;
        write_atomically(&copy, |writer| std::io::copy(&mut file, writer).map(|_| ()))?;
        Ok(copy)
    }

    pub fn end(self, outcome: &Outcome) {
        let ended = self.mlflow.run_ended(&self.identity(), outcome);
        self.or_warn(ended);
    }
}
