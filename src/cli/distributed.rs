//! Distributed training: processes started by `srun`, `mpirun`, `torchrun` or `ctseg fit --gpus`.

use std::path::Path;
use std::sync::Arc;

use super::env::FILE_STORE;
use super::settings::Settings;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_engine::device::DeviceChoice;
use ctseg_engine::distributed::launcher;
use ctseg_engine::distributed::launcher::WorkerRank;
use ctseg_engine::distributed::process_group::{Collective, GpuBackend, ProcessGroup};

/// Whether this process is a rank other than 0.
pub(super) fn is_worker_rank() -> bool {
    matches!(launcher::worker_rank(variable), Ok(Some(worker)) if worker.rank > 0)
}

/// The rank of this process and its device: each process of a machine has its own GPU.
pub(super) fn worker_rank(settings: &Settings) -> Result<Option<(WorkerRank, DeviceChoice)>> {
    let Some(worker) = launcher::worker_rank(variable)? else {
        return Ok(None);
    };
    settings.device.check_gpu_libraries()?;
    let device = match settings.device.resolved() {
        DeviceChoice::LibTorchCuda(_) => DeviceChoice::LibTorchCuda(own_gpu(worker.local_rank)?),
        other => other,
    };
    Ok(Some((worker, device)))
}

/// The GPU of local rank `local_rank`: GPU 0 where the launcher shows each process only its own.
fn own_gpu(local_rank: usize) -> Result<usize> {
    let seen = DeviceChoice::gpu_count().unwrap_or(0);
    match seen {
        1 => Ok(0),
        seen if local_rank < seen => Ok(local_rank),
        seen => Err(Error::usage(format!(
            "local rank {local_rank}: libtorch sees only {}; start one process per GPU",
            counted(seen, "GPU")
        ))),
    }
}

/// Joins the process group of all ranks.
pub(super) fn join_process_group(
    worker: &WorkerRank,
    device: DeviceChoice,
    runs: &Path,
) -> Result<ProcessGroup> {
    let collective = match device.gpu_backend()? {
        Some(backend) => nccl_collective(worker, backend.as_ref(), runs)?,
        None => mpi_collective(worker)?,
    };
    let tell = |line: &str| eprintln!("error: {line}");
    ProcessGroup::new((worker.rank, worker.world_size), collective, tell)
}

#[cfg(feature = "mpi")]
fn mpi_collective(worker: &WorkerRank) -> Result<Arc<dyn Collective>> {
    let mpi = ctseg_engine::distributed::mpi::Mpi::init()?;
    agrees(worker, (mpi.rank, mpi.size))?;
    Ok(Arc::new(mpi))
}

#[cfg(not(feature = "mpi"))]
fn mpi_collective(worker: &WorkerRank) -> Result<Arc<dyn Collective>> {
    Err(Error::usage(format!(
        "{} say that this is rank {} of {}, but this build has no MPI for CPU training: build ctseg with --features mpi, or unset them to train in one process",
        worker.launcher, worker.rank, worker.world_size
    )))
}

/// Checks that MPI's rank and size match those of the launcher's variables.
#[cfg(feature = "mpi")]
fn agrees(worker: &WorkerRank, (rank, size): (usize, usize)) -> Result<()> {
    if (worker.rank, worker.world_size) == (rank, size) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} say that this is rank {} of {}, but MPI says {rank} of {size}: start with mpirun, or with srun --mpi=pmix if Slurm and MPI have that plugin",
        worker.launcher, worker.rank, worker.world_size
    )))
}

/// NCCL, whose unique ID is broadcast by MPI if MPI started the processes, otherwise through a file store.
fn nccl_collective(
    worker: &WorkerRank,
    nccl: &dyn GpuBackend,
    runs: &Path,
) -> Result<Arc<dyn Collective>> {
    let ranks = (worker.rank, worker.world_size);
    #[cfg(feature = "mpi")]
    if matches!(
        worker.launcher,
        launcher::Launcher::OpenMpi | launcher::Launcher::Pmi
    ) {
        let mpi = ctseg_engine::distributed::mpi::Mpi::init()?;
        agrees(worker, (mpi.rank, mpi.size))?;
        let mut name = nccl.new_unique_id()?;
        mpi.broadcast(&mut name)?;
        return nccl.join(&name, ranks, Some(Box::new(mpi)));
    }
    let folder = match (variable(FILE_STORE), worker.launcher.run_id(variable)) {
        (Some(folder), _) => folder.into(),
        (None, Some(key)) => runs.join(format!(".meeting-{key}")),
        (None, None) => {
            return Err(Error::usage(format!(
                "{} say that this is rank {} of {}; set {FILE_STORE} to a folder shared by all ranks, a new one for each launch",
                worker.launcher, worker.rank, worker.world_size
            )));
        }
    };
    let name = ctseg_engine::distributed::file_store::broadcast_bytes(&folder, ranks, || {
        nccl.new_unique_id()
    })?;
    let joined = nccl.join(&name, ranks, None)?;
    if worker.rank == 0 {
        ctseg_engine::distributed::file_store::remove(&folder, worker.world_size);
    }
    Ok(joined)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
