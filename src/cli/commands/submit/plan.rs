//! Jobs to submit and their dependencies.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::args::duration::parse_duration;
use crate::log::terminal;
use crate::slurm::script::Job;
use ctseg_base::Result;

/// Options of prediction jobs.
#[derive(Args)]
pub(super) struct TaskArgs {
    /// Number of array tasks that share the volumes
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tasks: u32,
}

impl TaskArgs {
    /// The number of shards, however many tasks are submitted; `None` if volumes are claimed.
    pub(crate) fn shares(&self, claim: &Option<PathBuf>) -> Option<String> {
        claim.is_none().then(|| self.tasks.to_string())
    }
}

/// Resources of a job.
#[derive(Args)]
pub struct JobArgs {
    /// Time limit of a job, such as 4h or 90m; longer work is requeued and resumed [default: the script's]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub time: Option<Duration>,
    /// Memory per job, such as 16G
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<String>,
    /// CPU cores per job
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// GPUs per job: a number, or type and number such as a100:2; training uses all of them
    #[arg(long, value_name = "N")]
    pub gpus: Option<String>,
    /// Partition [default: the cluster's]
    #[arg(long, value_name = "NAME")]
    pub partition: Option<String>,
    /// Account to charge
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// Quality of service
    #[arg(long, value_name = "NAME")]
    pub qos: Option<String>,
    /// Additional sbatch option, such as --sbatch-arg=--constraint=avx512
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub sbatch_arg: Vec<String>,
    /// Print the job scripts, ready for sbatch, without submitting them. Problems with inputs and model are only
    /// warnings; the cluster is not queried and no folder is created
    #[arg(long)]
    pub dry_run: bool,
}

impl JobArgs {
    /// Runs `checks`; in a dry run, their error is only a warning.
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

/// A job and its dependencies.
pub struct Step {
    pub job: Job,
    /// Type of dependency, such as `afterok`, and index of the earlier job.
    pub after: Vec<(&'static str, usize)>,
}

impl Step {
    /// The value of `--dependency`, such as `afterok:12,afterany:13`, with the `names` or IDs of the earlier jobs.
    pub(crate) fn dependency(&self, names: &[String]) -> String {
        let each = self.after.iter();
        let each = each.filter_map(|(how, step)| Some(format!("{how}:{}", names.get(*step)?)));
        each.collect::<Vec<_>>().join(",")
    }
}

/// The jobs to submit.
pub struct Plan {
    pub steps: Vec<Step>,
    pub dry_run: bool,
}

impl Plan {
    /// A single job without dependencies.
    pub fn of(job: Job, dry_run: bool) -> Self {
        let after = Vec::new();
        Self {
            steps: vec![Step { job, after }],
            dry_run,
        }
    }
}
