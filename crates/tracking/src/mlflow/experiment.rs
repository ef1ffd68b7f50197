//! The experiments of a server: found, created, and restored after deletion.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::api::{Api, ExperimentInfo};
use super::error::Fault;

/// Experiments that cannot be used, by name, with the reason: the server is asked once, however many runs they have.
#[derive(Debug, Default)]
pub struct Experiments(Mutex<BTreeMap<String, String>>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveExperiment {
    pub id: String,
    /// It was deleted and has just been restored.
    pub is_restored: bool,
}

impl Experiments {
    /// The experiment called `name`, created if missing and restored if deleted.
    ///
    /// # Errors
    /// [`Fault::ExperimentDeleted`] if it was deleted and this user may not restore it.
    pub(super) fn get_or_create(
        &self,
        api: &Api,
        uri: &str,
        name: &str,
    ) -> Result<ActiveExperiment, Fault> {
        self.check(name)?;
        if let Some(known) = api.get_experiment_by_name(name)? {
            return self.ensure_active(api, uri, name, known);
        }
        match api.create_experiment(name) {
            Ok(id) => Ok(ActiveExperiment {
                id,
                is_restored: false,
            }),
            // Another process created it, or it is hidden because it was deleted.
            Err(Fault::Refused(refusal)) if refusal.exists_already() => {
                match api.get_experiment_by_name(name)? {
                    Some(known) => self.ensure_active(api, uri, name, known),
                    None => Err(self.unusable(name, refusal.message)),
                }
            }
            Err(fault) => Err(fault),
        }
    }

    /// Restores the experiment `id` called `name`, with its runs, if it was deleted. Returns whether it was.
    ///
    /// # Errors
    /// As for [`Experiments::get_or_create`].
    pub(super) fn restore_if_deleted(
        &self,
        api: &Api,
        uri: &str,
        name: &str,
        id: &str,
    ) -> Result<bool, Fault> {
        self.check(name)?;
        match api.get_experiment_by_name(name)? {
            Some(known) if known.id == id => {
                Ok(self.ensure_active(api, uri, name, known)?.is_restored)
            }
            _ => Ok(false),
        }
    }

    fn ensure_active(
        &self,
        api: &Api,
        uri: &str,
        name: &str,
        known: ExperimentInfo,
    ) -> Result<ActiveExperiment, Fault> {
        let ExperimentInfo { id, is_deleted } = known;
        if !is_deleted {
            return Ok(ActiveExperiment {
                id,
                is_restored: false,
            });
        }
        let why = match api.restore_experiment(&id) {
            Ok(()) => "it is still deleted afterwards".to_owned(),
            Err(Fault::Fatal { why, .. }) => why,
            Err(Fault::Refused(refusal)) => refusal.message,
            Err(fault) => return Err(fault),
        };
        // Also after a refusal: another process may have restored it.
        if api
            .get_experiment_by_name(name)?
            .is_some_and(|known| !known.is_deleted)
        {
            return Ok(ActiveExperiment {
                id,
                is_restored: true,
            });
        }
        Err(self.unusable(
            name,
            format!(
                "experiment '{name}' was deleted on {uri} and cannot be restored ({why}); choose another with \
                 --experiment, or restore it with 'mlflow experiments restore --experiment-id {id}'"
            ),
        ))
    }

    fn check(&self, name: &str) -> Result<(), Fault> {
        match self.all().get(name) {
            Some(why) => Err(Fault::ExperimentDeleted(why.clone())),
            None => Ok(()),
        }
    }

    fn unusable(&self, name: &str, why: String) -> Fault {
        self.all().insert(name.to_owned(), why.clone());
        Fault::ExperimentDeleted(why)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn restored_note(server: &str, experiment: &str) -> String {
    format!("experiment '{experiment}' was deleted on {server} and has been restored")
}
