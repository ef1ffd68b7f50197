//! The experiments of a server: found, made, and restored where they were deleted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::api::{Api, KnownExperiment};
use super::error::Fault;

/// Experiments that cannot be used, by name, and why: a server is asked once, however many runs belong to one.
#[derive(Debug, Default)]
pub struct Experiments(Mutex<BTreeMap<String, String>>);

/// An experiment that runs can be created in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usable {
    /// The server's number for it.
    pub id: String,
    /// It was deleted, and has just been restored.
    pub is_restored: bool,
}

impl Experiments {
    /// The experiment called `name`, created where there is none and restored where it was deleted.
    ///
    /// # Errors
    /// [`Fault::Experiment`] where it was deleted and this user may not restore it.
    pub(super) fn usable(&self, api: &Api, uri: &str, name: &str) -> Result<Usable, Fault> {
        self.check(name)?;
        if let Some(known) = api.known_experiment(name)? {
            return self.active(api, uri, name, known);
        }
        match api.create_experiment(name) {
            Ok(id) => Ok(Usable {
                id,
                is_restored: false,
            }),
            // Another process was faster, or it is hidden because it was deleted.
            Err(Fault::Refused(refusal)) if refusal.exists_already() => {
                match api.known_experiment(name)? {
                    Some(known) => self.active(api, uri, name, known),
                    None => Err(self.unusable(name, refusal.message)),
                }
            }
            Err(fault) => Err(fault),
        }
    }

    /// Restores the experiment `id` called `name` if it was deleted, and its runs with it; whether that was needed.
    ///
    /// # Errors
    /// As for [`Experiments::usable`].
    pub(super) fn restored(
        &self,
        api: &Api,
        uri: &str,
        name: &str,
        id: &str,
    ) -> Result<bool, Fault> {
        self.check(name)?;
        match api.known_experiment(name)? {
            Some(known) if known.id == id => Ok(self.active(api, uri, name, known)?.is_restored),
            _ => Ok(false),
        }
    }

    fn active(
        &self,
        api: &Api,
        uri: &str,
        name: &str,
        known: KnownExperiment,
    ) -> Result<Usable, Fault> {
        let KnownExperiment { id, is_deleted } = known;
        if !is_deleted {
            return Ok(Usable {
                id,
                is_restored: false,
            });
        }
        let why = match api.restore_experiment(&id) {
            Ok(()) => "it still is after that".to_owned(),
            Err(Fault::Closed(why)) => why,
            Err(Fault::Refused(refusal)) => refusal.message,
            Err(fault) => return Err(fault),
        };
        // Also where this was refused: another process may have been faster.
        if api
            .known_experiment(name)?
            .is_some_and(|known| !known.is_deleted)
        {
            return Ok(Usable {
                id,
                is_restored: true,
            });
        }
        Err(self.unusable(
            name,
            format!(
                "experiment '{name}' was deleted on {uri} and cannot be restored ({why}); name another one with \
                 --experiment, or have it restored by 'mlflow experiments restore --experiment-id {id}'"
            ),
        ))
    }

    fn check(&self, name: &str) -> Result<(), Fault> {
        match self.all().get(name) {
            Some(why) => Err(Fault::Experiment(why.clone())),
            None => Ok(()),
        }
    }

    fn unusable(&self, name: &str, why: String) -> Fault {
        self.all().insert(name.to_owned(), why.clone());
        Fault::Experiment(why)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said of an experiment that was restored.
pub(super) fn restored_on(server: &str, experiment: &str) -> String {
    format!("experiment '{experiment}' was deleted on {server}, and has been restored")
}
