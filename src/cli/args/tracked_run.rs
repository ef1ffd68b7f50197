//! Predictions and evaluations as runs in a tracking server, beside the trainings that they depend on.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::tracking::MlflowArgs;
use crate::cli::settings::Settings;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::run::folder::new_folder;
use ctseg_core::run::tracker::{Event, Outcome, Point, RunIdentity, Tracker};
use ctseg_tracking::mlflow::Mlflow;
use ctseg_tracking::provenance;

/// What commands take that make a run only where there is somebody to tell of it.
#[derive(Args)]
pub struct RecordArgs {
    /// Keep a run folder of this, for 'ctseg sync', even where no MLflow server is named
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

    /// The run of this command, called `<time>-<name>`: where a server is named, or a run folder is asked for.
    pub fn begun(
        &self,
        name: &str,
        settings: &Settings,
        observer: &Arc<dyn Observer>,
    ) -> Result<Option<Recorded>> {
        if !self.wanted && !self.mlflow.names_server(settings) {
            return Ok(None);
        }
        let Some(mlflow) = self.mlflow.tracker(settings, observer)? else {
            return Ok(None);
        };
        let folder = new_folder(&settings.config.runs_or(self.runs.clone()), name)?;
        let recorded = Recorded {
            name: folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            folder,
            mlflow,
            observer: Arc::clone(observer),
        };
        recorded.or_warn(recorded.mlflow.begun(&recorded.identity()));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let own = [("ctseg.kind", name.to_owned()), ("ctseg.version", version)];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        recorded.tell(Event::Tags([provenance::tags(), own.to_vec()].concat()));
        Ok(Some(recorded))
    }
}

/// A run that is told of; what goes wrong with that is said and ends nothing.
pub struct Recorded {
    mlflow: Mlflow,
    folder: PathBuf,
    name: String,
    observer: Arc<dyn Observer>,
}

impl Recorded {
    fn identity(&self) -> RunIdentity<'_> {
        RunIdentity {
            name: &self.name,
            folder: &self.folder,
            parent: None,
        }
    }

    fn or_warn(&self, told: Result<()>) {
        if let Err(error) = told {
            self.observer.warn(&format!("not tracked: {error}"));
        }
    }

    fn tell(&self, event: Event) {
        self.or_warn(self.mlflow.happened(&event));
    }

    pub fn parameters(&self, parameters: &[(&str, String)]) {
        let parameters = parameters.iter();
        let parameters = parameters.map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.tell(Event::Parameters(parameters.collect()));
    }

    /// Which models the run depends on.
    pub fn models(&self, models: &[ModelUsed]) {
        let joined = |of: &dyn Fn(&ModelUsed) -> String| {
            let all: Vec<String> = models.iter().map(of).collect();
            all.join(",")
        };
        if models.is_empty() {
            return;
        }
        let path = |model: &ModelUsed| model.model.display().to_string();
        self.tell(Event::Tags(vec![
            ("ctseg.model".to_owned(), joined(&path)),
            (
                "ctseg.model_sha256".to_owned(),
                joined(&|model| model.sha256.clone()),
            ),
        ]));
    }

    /// Figures of the run as a whole.
    pub fn figures(&self, values: Vec<(String, f64)>) {
        let points = vec![Point::now(0, values)];
        self.tell(Event::Metrics {
            network: None,
            points,
        });
    }

    /// Files that are there.
    pub fn files(&self, paths: &[PathBuf]) {
        for path in paths.iter().filter(|path| path.exists()) {
            self.tell(Event::Artifact {
                path: path.clone(),
                to: String::new(),
            });
        }
    }

    pub fn ended(self, outcome: &Outcome) {
        let ended = self.mlflow.ended(&self.identity(), outcome);
        self.or_warn(ended);
    }
}
