//! Which tracking server commands tell of their runs.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::settings::Settings;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_tracking::mlflow::Mlflow;
use ctseg_tracking::mlflow::parent::Above;
use ctseg_tracking::mlflow::settings::{Preferences, Server, process_environment};

/// What commands that make runs take.
#[derive(Args)]
pub struct MlflowArgs {
    /// Tell no MLflow server, now or later, of this run
    #[arg(long)]
    no_mlflow: bool,
    /// MLflow experiment that the run belongs to [default: ctseg]
    #[arg(long, env = "MLFLOW_EXPERIMENT_NAME", value_name = "NAME")]
    experiment: Option<String>,
    /// Show the run below this one of the MLflow server's, by its number there
    #[arg(long, env = "CTSEG_MLFLOW_PARENT_RUN", value_name = "RUN")]
    mlflow_parent_run: Option<String>,
    /// Else show it below one that all runs with this name share, which is made where need be [default: that of its
    /// array of Slurm jobs, if it is of one]
    #[arg(long, env = "CTSEG_MLFLOW_GROUP", value_name = "NAME")]
    mlflow_group: Option<String>,
    #[command(flatten)]
    artifacts: ArtifactArgs,
}

/// What commands take that send files to the server.
#[derive(Args)]
pub struct ArtifactArgs {
    /// Allow the MLflow server to store files in local folders below DIR; without this, files for a server with a
    /// `file:` artifact store are held back
    #[arg(long, env = "CTSEG_MLFLOW_ARTIFACT_ROOT", value_name = "DIR")]
    mlflow_artifact_root: Option<PathBuf>,
}

impl ArtifactArgs {
    /// What flags and settings files say of the server; runs go into `experiment` if that is named.
    pub fn preferences(&self, settings: &Settings, experiment: Option<&str>) -> Preferences {
        let named = settings.config.tracking(experiment);
        let own = self.mlflow_artifact_root.clone();
        Preferences {
            artifact_root: own.or(named.artifact_root),
            ..named
        }
    }
}

/// Says what is unsafe about the way to `server`.
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

    /// Refuses an address that is none of a server before any work is done for a run.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        let preferences = self.preferences(settings);
        match Server::find(&preferences, &process_environment) {
            Err(Error::Usage(problem)) if !self.no_mlflow => {
                Err(Error::usage(format!("{problem}; --no-mlflow does without")))
            }
            _ => Ok(()),
        }
    }

    /// Whether there is a server, be it one that cannot be used.
    pub fn names_server(&self, settings: &Settings) -> bool {
        let preferences = self.preferences(settings);
        !self.no_mlflow && !matches!(Server::find(&preferences, &process_environment), Ok(None))
    }

    /// What the run lies below.
    fn above(&self) -> Option<Above> {
        let run = self.mlflow_parent_run.clone().filter(|id| !id.is_empty());
        let group = self.mlflow_group.as_deref().filter(|name| !name.is_empty());
        let named = run.map(Above::Run).or_else(|| group.map(Above::group));
        named.or_else(|| Above::of_array(&process_environment))
    }

    /// What tells the server, if anything shall. A server that cannot be used is said, and nothing that ends a run.
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
            Ok(mlflow.below(self.above()))
        };
        match named.and_then(opened) {
            Ok(mlflow) => Ok(Some(mlflow)),
            Err(error) => {
                observer.warn(&format!(
                    "MLflow: {error}; the run keeps in its folder what 'ctseg sync' sends later"
                ));
                opened(None).map(Some)
            }
        }
    }
}
