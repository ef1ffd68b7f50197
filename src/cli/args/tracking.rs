//! The tracking server of runs.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::settings::Settings;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_tracking::mlflow::Mlflow;
use ctseg_tracking::mlflow::parent::Parent;
use ctseg_tracking::mlflow::settings::{Preferences, Server, process_environment};

/// Options of commands that create runs.
#[derive(Args)]
pub struct MlflowArgs {
    /// Do not track this run in MLflow, now or later
    #[arg(long)]
    no_mlflow: bool,
    /// MLflow experiment of the run [default: ctseg]
    #[arg(long, env = "MLFLOW_EXPERIMENT_NAME", value_name = "NAME")]
    experiment: Option<String>,
    /// Nest the run under the MLflow run with this ID
    #[arg(long, env = "CTSEG_MLFLOW_PARENT_RUN", value_name = "RUN")]
    mlflow_parent_run: Option<String>,
    /// Without a parent run: group under the parent run of this name, created if missing [default: the Slurm job array]
    #[arg(long, env = "CTSEG_MLFLOW_GROUP", value_name = "NAME")]
    mlflow_group: Option<String>,
    #[command(flatten)]
    artifacts: ArtifactArgs,
}

/// Options of commands that upload files.
#[derive(Args)]
pub struct ArtifactArgs {
    /// Allow the MLflow server to store artifacts in local folders below DIR; without it, nothing is uploaded to a
    /// `file:` artifact store
    #[arg(long, env = "CTSEG_MLFLOW_ARTIFACT_ROOT", value_name = "DIR")]
    mlflow_artifact_root: Option<PathBuf>,
}

impl ArtifactArgs {
    /// The server from flags and settings files, with `experiment` if given.
    pub fn preferences(&self, settings: &Settings, experiment: Option<&str>) -> Preferences {
        let named = settings.config.tracking(experiment);
        let own = self.mlflow_artifact_root.clone();
        Preferences {
            artifact_root: own.or(named.artifact_root),
            ..named
        }
    }
}

/// Warns of security risks of the connection to `server`.
pub fn warn_of_risks(server: &Server, observer: &dyn Observer) {
    for (what, advice) in server.risks() {
        observer.warn(&format!("MLflow: {what}; {advice}"));
    }
}

impl MlflowArgs {
    fn preferences(&self, settings: &Settings) -> Preferences {
        self.artifacts
            .preferences(settings, self.experiment.as_deref())
    }

    /// Refuses an invalid server address before any work is done.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        let preferences = self.preferences(settings);
        match Server::find(&preferences, &process_environment) {
            Err(Error::Usage(problem)) if !self.no_mlflow => Err(Error::usage(format!(
                "{problem}; or turn tracking off with --no-mlflow"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a server is configured, usable or not.
    pub fn names_server(&self, settings: &Settings) -> bool {
        let preferences = self.preferences(settings);
        !self.no_mlflow && !matches!(Server::find(&preferences, &process_environment), Ok(None))
    }

    fn parent_run(&self) -> Option<Parent> {
        let run = self.mlflow_parent_run.clone().filter(|id| !id.is_empty());
        let group = self.mlflow_group.as_deref().filter(|name| !name.is_empty());
        let named = run.map(Parent::Run).or_else(|| group.map(Parent::group));
        named.or_else(|| Parent::of_array(&process_environment))
    }

    /// The MLflow tracker, unless tracking is off. An unusable server is a warning and does not end the run.
    ///
    /// # Errors
    /// See [`MlflowArgs::check`].
    pub fn tracker(
        &self,
        settings: &Settings,
        observer: &Arc<dyn Observer>,
    ) -> Result<Option<Mlflow>> {
        if self.no_mlflow {
            return Ok(None);
        }
        self.check(settings)?;
        let preferences = self.preferences(settings);
        let named = Server::find(&preferences, &process_environment);
        let opened = |server: Option<Server>| {
            if let Some(server) = &server {
                warn_of_risks(server, observer.as_ref());
            }
            let experiment = preferences.experiment.clone();
            let mlflow = Mlflow::new(server, experiment, preferences.model.clone(), observer)?;
            Ok(mlflow.with_parent_run(self.parent_run()))
        };
        match named.and_then(opened) {
            Ok(mlflow) => Ok(Some(mlflow)),
            Err(error) => {
                observer.warn(&format!(
                    "MLflow: {error}; upload the run later with 'ctseg sync'"
                ));
                opened(None).map(Some)
            }
        }
    }
}
