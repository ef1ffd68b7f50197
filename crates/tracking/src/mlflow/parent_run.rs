//! The parent run of a group: the jobs of one job array or chain.
//!
//! The first job creates it. Concurrent jobs may each create one, since MLflow has no conditional creation: the oldest
//! wins, by start time and run ID, and the others are deleted. Each job checks again when its run ends, so that all
//! agree in the end.

use super::api::{Api, NewRun, RunInfo};
use super::delivery::Delivery;
use super::error::Fault;
use super::event::Status;
use super::parent::Parent;

/// The key of a group's run.
fn key(group: &str) -> String {
    format!("group/{group}")
}

/// The active runs of a group, the winner first.
fn group_runs(api: &Api, experiment: &str, group: &str) -> Result<Vec<RunInfo>, Fault> {
    let mut runs = api.find_runs(experiment, &key(group))?;
    runs.retain(|run| !run.is_deleted);
    runs.sort_by(|a, b| (a.start_time, &a.id).cmp(&(b.start_time, &b.id)));
    Ok(runs)
}

/// The run of a group.
pub(super) struct GroupRun {
    id: String,
    /// The ID of the run that was created for it, if any; another process's may have won.
    created: Option<String>,
}

pub(super) fn find_or_create_group(
    api: &Api,
    experiment: &str,
    group: &str,
    user: Option<&str>,
) -> Result<GroupRun, Fault> {
    if let Some(first) = group_runs(api, experiment, group)?.into_iter().next() {
        return Ok(GroupRun {
            id: first.id,
            created: None,
        });
    }
    let created = api.create_run(&NewRun {
        experiment,
        key: &key(group),
        name: group,
        parent: None,
        user,
        start_time: super::spool::now(),
        tags: &[("ctseg.kind", "group"), ("ctseg.group", group)],
    })?;
    let first = group_runs(api, experiment, group)?.into_iter().next();
    Ok(GroupRun {
        id: first.map_or(created.id.clone(), |run| run.id),
        created: Some(created.id),
    })
}

impl Delivery {
    /// The ID of this run's parent run, if any.
    pub(super) fn find_parent(
        &mut self,
        api: &Api,
        experiment: &str,
    ) -> Result<Option<String>, Fault> {
        if let Some(key) = &self.start.parent {
            return Ok(api.find_run(experiment, key)?.map(|run| run.id));
        }
        match &self.start.parent_run {
            None => Ok(None),
            Some(Parent::Run(id)) => Ok(Some(id.clone())),
            Some(Parent::Group(group)) => {
                let user = self.start.user.as_deref();
                match find_or_create_group(api, experiment, group, user) {
                    Ok(run) => {
                        self.cursor.group_made = run.created;
                        Ok(Some(run.id))
                    }
                    // A missing parent run is no reason to lose the run.
                    Err(Fault::Refused(_)) => Ok(None),
                    Err(fault) => Err(fault),
                }
            }
        }
    }

    /// When the run ends at `at`: moves it below the group's winning run, and ends that run at the same time.
    pub(super) fn end_group(&mut self, at: i64) -> Result<(), Fault> {
        let Some(Parent::Group(group)) = &self.start.parent_run else {
            return Ok(());
        };
        let link = std::sync::Arc::clone(&self.link);
        let api = Self::api(&link);
        let experiment = &self.cursor.experiment_id;
        ignore_refusal(|| {
            let Some(first) = group_runs(&api, experiment, group)?.into_iter().next() else {
                return Ok(()); // deleted by someone
            };
            api.set_tag(&self.cursor.run_id, "mlflow.parentRunId", &first.id)?;
            api.set_status(&first.id, Status::Finished, at)?;
            match &self.cursor.group_made {
                Some(created) if *created != first.id => api.delete_run(created),
                _ => Ok(()),
            }
        })
    }
}

/// Ignores a refusal: the run itself is not affected.
fn ignore_refusal(request: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    match request() {
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
            Parent::of_array(&|name| {
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
        assert_eq!(task("71"), Some(Parent::Group("slurm lab_s 70".to_owned())));
        assert_eq!(of(&[("SLURM_JOB_ID", "71")]), None);
    }
}
