//! The scheduler's job of this process, from the environment.

use std::sync::LazyLock;

/// Variables for rank and world size: torchrun, Slurm steps, Open MPI, MPICH.
const RANKS: [(&str, &str); 4] = [
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
];

/// A job, and this process's rank in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Job {
    /// As the scheduler's commands accept it: `71`, `70_3` (Slurm array task), a pod's name.
    pub id: Option<String>,
    /// The rank of this process, from 0, if the job starts several.
    pub rank: Option<u32>,
}

static CURRENT: LazyLock<Job> = LazyLock::new(|| Job::of(&|name| std::env::var(name).ok()));

impl Job {
    pub fn current() -> &'static Self {
        &CURRENT
    }

    /// The job from environment variables, looked up by `variable`.
    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let known = |name: &str| variable(name).filter(|value| !value.is_empty());
        let number = |name: &str| known(name)?.parse::<u32>().ok();
        let task = || {
            let (array, task) = (known("SLURM_ARRAY_JOB_ID")?, known("SLURM_ARRAY_TASK_ID")?);
            Some(format!("{array}_{task}"))
        };
        let pod = || {
            known("KUBERNETES_SERVICE_HOST")?;
            known("POD_NAME").or_else(|| known("HOSTNAME"))
        };
        let id = task()
            .or_else(|| known("SLURM_JOB_ID"))
            .or_else(|| known("PBS_JOBID"))
            .or_else(|| known("LSB_JOBID"))
            .or_else(pod);
        let rank = RANKS.iter().find_map(|(rank, size)| {
            let several = number(size)? > 1;
            number(rank).filter(|_| several)
        });
        Self { id, rank }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(environment: &[(&str, &str)]) -> (Option<String>, Option<u32>) {
        let job = Job::of(&|name| {
            let found = environment.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        (job.id, job.rank)
    }

    #[test]
    fn jobs_are_named_as_their_scheduler_accepts_them() {
        assert_eq!(job(&[("SLURM_JOB_ID", "")]), (None, None));
        let task = [
            ("SLURM_JOB_ID", "72"),
            ("SLURM_ARRAY_JOB_ID", "70"),
            ("SLURM_ARRAY_TASK_ID", "3"),
            // A batch script: rank 0 of 1.
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "1"),
        ];
        assert_eq!(job(&task), (Some("70_3".to_owned()), None));
        let step = [
            ("SLURM_JOB_ID", "72"),
            ("SLURM_PROCID", "2"),
            ("SLURM_STEP_NUM_TASKS", "4"),
        ];
        assert_eq!(job(&step), (Some("72".to_owned()), Some(2)));
        assert_eq!(job(&[("RANK", "1"), ("WORLD_SIZE", "2")]), (None, Some(1)));
        let pod = [
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("HOSTNAME", "fit-x2b7"),
        ];
        assert_eq!(job(&pod).0.as_deref(), Some("fit-x2b7"));
        assert_eq!(job(&[("HOSTNAME", "laptop")]), (None, None));
    }
}
