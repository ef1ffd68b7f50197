//! The run that runs of one array of jobs, or of one chain, lie below.
//!
//! Whoever comes first makes it. Two that come at once may each make one, as MLflow makes nothing under a condition: of
//! several the oldest counts, by the time and the number that the server holds, and who made another one takes it back.
//! All look again when their runs end, so that in the end they agree.

use super::api::{Api, KnownRun, NewRun};
use super::delivery::Delivery;
use super::error::Fault;
use super::event::Status;
use super::parent::Above;

/// How the server knows the run of a group.
fn key(group: &str) -> String {
    format!("group/{group}")
}

/// Those of a group that are there, the one that counts first.
fn known(api: &Api, experiment: &str, group: &str) -> Result<Vec<KnownRun>, Fault> {
    let mut runs = api.runs_of(experiment, &key(group))?;
    runs.retain(|run| !run.is_deleted);
    runs.sort_by(|a, b| (a.begun, &a.id).cmp(&(b.begun, &b.id)));
    Ok(runs)
}

/// The group's run, made where there is none, and whether it was.
pub(super) fn found_or_made(
    api: &Api,
    experiment: &str,
    group: &str,
    user: Option<&str>,
) -> Result<(String, Option<String>), Fault> {
    if let Some(first) = known(api, experiment, group)?.into_iter().next() {
        return Ok((first.id, None));
    }
    let made = api.create_run(&NewRun {
        experiment,
        key: &key(group),
        name: group,
        parent: None,
        user,
        begun: super::spool::now(),
        tags: &[("ctseg.kind", "group"), ("ctseg.group", group)],
    })?;
    let first = known(api, experiment, group)?.into_iter().next();
    Ok((first.map_or(made.id.clone(), |run| run.id), Some(made.id)))
}

impl Delivery {
    /// The number of the run that this one is to lie below.
    pub(super) fn found_above(
        &mut self,
        api: &Api,
        experiment: &str,
    ) -> Result<Option<String>, Fault> {
        if let Some(key) = &self.begun.parent {
            return Ok(api.run_of(experiment, key)?.map(|run| run.id));
        }
        match &self.begun.above {
            None => Ok(None),
            Some(Above::Run(id)) => Ok(Some(id.clone())),
            Some(Above::Group(group)) => {
                let user = self.begun.user.as_deref();
                match found_or_made(api, experiment, group, user) {
                    Ok((id, made)) => {
                        self.standing.group_made = made;
                        Ok(Some(id))
                    }
                    // The run counts, not where it is shown.
                    Err(Fault::Refused(_)) => Ok(None),
                    Err(fault) => Err(fault),
                }
            }
        }
    }

    /// When the run ends, at `at`: below the group's run that counts, which lasts until now.
    pub(super) fn group_ended(&mut self, at: i64) -> Result<(), Fault> {
        let Some(Above::Group(group)) = &self.begun.above else {
            return Ok(());
        };
        let link = std::sync::Arc::clone(&self.link);
        let api = Self::api(&link);
        let experiment = &self.standing.experiment_id;
        unless_refused(|| {
            let Some(first) = known(&api, experiment, group)?.into_iter().next() else {
                return Ok(()); // somebody has removed it
            };
            api.set_tag(&self.standing.run_id, "mlflow.parentRunId", &first.id)?;
            api.set_status(&first.id, Status::Finished, at)?;
            match &self.standing.group_made {
                Some(made) if *made != first.id => api.delete_run(made),
                _ => Ok(()),
            }
        })
    }
}

/// What the server refuses here costs the run nothing.
fn unless_refused(done: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    match done() {
        Err(Fault::Refused(_)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_one_array_agree_and_others_have_no_group() {
        let of = |variables: &[(&str, &str)]| {
            Above::of_array(&|name| {
                let mut found = variables.iter().filter(|(own, _)| *own == name);
                found.next().map(|(_, value)| (*value).to_owned())
            })
        };
        let task = |id| {
            of(&[
                ("SLURM_ARRAY_JOB_ID", "70"),
                ("SLURM_JOB_ID", id),
                ("SLURM_CLUSTER_NAME", "lab's"),
            ])
        };
        assert_eq!(task("71"), task("72"));
        assert_eq!(task("71"), Some(Above::Group("slurm lab_s 70".to_owned())));
        assert_eq!(of(&[("SLURM_JOB_ID", "71")]), None);
    }
}
