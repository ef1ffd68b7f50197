//! The rank of this process, from the environment variables of its launcher: `srun`, `mpirun`, `torchrun` and
//! compatible ones.

use std::fmt;

use ctseg_base::{Error, Result};

/// The rank of a process in a distributed launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRank {
    /// From 0.
    pub rank: usize,
    pub world_size: usize,
    /// Rank on this machine, from 0: the index of its GPU.
    pub local_rank: usize,
    pub launcher: Launcher,
}

/// What started the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// `torchrun`, and launchers that set its variables, such as `ctseg fit --gpus`.
    Torchrun,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// `mpirun` of MPICH and its derivatives, and `srun --mpi=pmi2`.
    Pmi,
    /// `srun`.
    Slurm,
}

/// Launchers with their variables: rank, number of processes, rank on the machine.
const KNOWN: [(Launcher, [&str; 3]); 4] = [
    (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_RANK"]),
    (
        Launcher::OpenMpi,
        [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
        ],
    ),
    (Launcher::Pmi, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"]),
    // Tasks of the step, which does not include the batch script.
    (
        Launcher::Slurm,
        ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"],
    ),
];

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rank, size, _] = self.variables();
        write!(f, "{rank} and {size}")
    }
}

impl Launcher {
    fn variables(self) -> [&'static str; 3] {
        let known = KNOWN.iter().find(|(launcher, _)| *launcher == self);
        known.map_or(["", "", ""], |(_, variables)| *variables)
    }

    /// A unique name for this launch, from the environment `variable`s; `None` if the launcher sets none.
    pub fn run_id(self, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        let names: &[&str] = match self {
            Self::Torchrun => &[
                "TORCHELASTIC_RUN_ID",
                "TORCHELASTIC_RESTART_COUNT",
                "MASTER_ADDR",
                "MASTER_PORT",
            ],
            Self::Slurm => &["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"],
            Self::OpenMpi => &["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"],
            Self::Pmi => &["PMI_JOBID"],
        };
        let parts: Vec<String> = names.iter().filter_map(|name| variable(name)).collect();
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        (!parts.is_empty()).then(|| parts.join("-").chars().map(safe).collect())
    }
}

/// The rank of this process, from the environment `variable`s; `None` for a single process.
///
/// # Errors
/// Invalid values.
pub fn worker_rank(variable: impl Fn(&str) -> Option<String>) -> Result<Option<WorkerRank>> {
    for (launcher, [rank, size, local_rank]) in KNOWN {
        let (Some(_), Some(_)) = (variable(rank), variable(size)) else {
            continue;
        };
        // Slurm's own PMI does not set the local rank; Slurm's step variables do.
        if launcher == Launcher::Pmi && variable(local_rank).is_none() {
            continue;
        }
        let number = |name: &str| -> Result<usize> {
            let text = variable(name).unwrap_or_else(|| "0".to_owned());
            text.trim().parse().map_err(|_| {
                Error::usage(format!(
                    "{name}={text}: expected a number, as set by a launcher; unset it to train in a single process"
                ))
            })
        };
        let worker = WorkerRank {
            rank: number(rank)?,
            world_size: number(size)?,
            local_rank: number(local_rank)?,
            launcher,
        };
        if worker.rank >= worker.world_size.max(1) {
            return Err(Error::usage(format!(
                "{rank}={} and {size}={}: ranks start at 0",
                worker.rank, worker.world_size
            )));
        }
        // Variables of a single process (such as those of an image) may be set around or inside a real launcher.
        if worker.world_size > 1 {
            return Ok(Some(worker));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Result<Option<WorkerRank>> {
        let variables: Vec<(&str, &str)> = text
            .split_whitespace()
            .filter_map(|v| v.split_once('='))
            .collect();
        worker_rank(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn ranks_are_read_from_every_launcher() {
        let at = |rank, world_size, local_rank, launcher| {
            Some(WorkerRank {
                rank,
                world_size,
                local_rank,
                launcher,
            })
        };
        for (variables, expected) in [
            ("", None),
            (
                "RANK=3 WORLD_SIZE=8 LOCAL_RANK=1",
                at(3, 8, 1, Launcher::Torchrun),
            ),
            ("RANK=1 WORLD_SIZE=2", at(1, 2, 0, Launcher::Torchrun)),
            (
                "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1",
                at(1, 4, 1, Launcher::OpenMpi),
            ),
            (
                "PMI_RANK=0 PMI_SIZE=2 MPI_LOCALRANKID=0",
                at(0, 2, 0, Launcher::Pmi),
            ),
            (
                "SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=1 SLURM_JOB_ID=7",
                at(5, 8, 1, Launcher::Slurm),
            ),
            // A batch script of a job with several tasks.
            ("SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_JOB_ID=7", None),
            ("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1", None),
            (
                "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2",
                at(1, 2, 0, Launcher::OpenMpi),
            ),
        ] {
            assert_eq!(seen(variables).unwrap(), expected, "{variables}");
        }
        let around = "RANK=0 WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1";
        assert_eq!(seen(around).unwrap(), at(1, 4, 1, Launcher::OpenMpi));
        let pmi = "PMI_RANK=5 PMI_SIZE=8 SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=1";
        assert_eq!(seen(pmi).unwrap(), at(5, 8, 1, Launcher::Slurm));
        for wrong in [
            "RANK=2 WORLD_SIZE=2",
            "RANK=x WORLD_SIZE=2",
            "RANK=-1 WORLD_SIZE=2",
        ] {
            let said = seen(wrong).unwrap_err().to_string();
            assert!(said.contains("RANK="), "{wrong}: {said}");
        }
    }

    #[test]
    fn launches_have_unique_names() {
        let variable = |name: &str| match name {
            "SLURM_JOB_ID" => Some("12".to_owned()),
            "SLURM_STEP_ID" => Some("0".to_owned()),
            "MASTER_ADDR" => Some("node/1".to_owned()),
            _ => None,
        };
        assert_eq!(Launcher::Slurm.run_id(variable).unwrap(), "12-0");
        assert_eq!(Launcher::Torchrun.run_id(variable).unwrap(), "node-1");
        assert_eq!(Launcher::Pmi.run_id(variable), None);
    }
}
