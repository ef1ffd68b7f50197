//! What is submitted: jobs, and which of them wait for which.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::args::duration::parse_duration;
use crate::log::terminal;
use crate::slurm::script::Job;
use ctseg_base::Result;

/// Of jobs that segment.
#[derive(Args)]
pub(super) struct TaskArgs {
    /// Tasks that share the volumes
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tasks: u32,
}

impl TaskArgs {
    /// The number of shares, whichever of their tasks are submitted; none where the volumes are claimed.
    pub(crate) fn shares(&self, claim: &Option<PathBuf>) -> Option<String> {
        claim.is_none().then(|| self.tasks.to_string())
    }
}

/// What the jobs ask of the cluster.
#[derive(Args)]
pub struct JobArgs {
    /// Time of a job, such as 4h or 90m; one that takes longer is requeued and goes on [default: the script's]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub time: Option<Duration>,
    /// Memory of a job, such as 16G
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<String>,
    /// Cores of a job
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// GPUs of a job: a number, or kind and number such as a100:2; a training takes all of them
    #[arg(long, value_name = "N")]
    pub gpus: Option<String>,
    /// Partition [default: the cluster's]
    #[arg(long, value_name = "NAME")]
    pub partition: Option<String>,
    /// Account that the time is charged to
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// Quality of service
    #[arg(long, value_name = "NAME")]
    pub qos: Option<String>,
    /// One more option for sbatch, such as --sbatch-arg=--constraint=avx512
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub sbatch_arg: Vec<String>,
    /// Submit nothing: print the job scripts, which sbatch takes as they are, one each. What is wrong with inputs and
    /// model is a warning; the cluster is not asked, and no folder is made
    #[arg(long)]
    pub dry_run: bool,
}

impl JobArgs {
    /// Fails where `checks` do; a dry run warns of it and goes on.
    pub(super) fn check(&self, checks: impl FnOnce() -> Result<()>) -> Result<()> {
        match checks() {
            Err(error) if self.dry_run => {
                let observer = terminal::for_stderr();
                observer.warn(&format!(
                    "{error}; without --dry-run nothing would be submitted"
                ));
                Ok(())
            }
            other => other,
        }
    }
}

/// A job, and those of the list before it that it waits for.
pub struct Step {
    pub job: Job,
    /// How, such as `afterok`, and for which of the list.
    pub after: Vec<(&'static str, usize)>,
}

impl Step {
    /// What it waits for, where the jobs of the list are called `names`: `afterok:12,afterany:13`.
    pub(crate) fn dependency(&self, names: &[String]) -> String {
        let each = self.after.iter();
        let each = each.filter_map(|(how, step)| Some(format!("{how}:{}", names.get(*step)?)));
        each.collect::<Vec<_>>().join(",")
    }
}

/// What is to be submitted.
pub struct Plan {
    pub steps: Vec<Step>,
    pub dry_run: bool,
}

impl Plan {
    /// A single job, which waits for no other.
    pub fn of(job: Job, dry_run: bool) -> Self {
        let after = Vec::new();
        Self {
            steps: vec![Step { job, after }],
            dry_run,
        }
    }
}
