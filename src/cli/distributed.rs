//! Which processes train together: begun by `srun`, `mpirun` or `torchrun`, or by `ctseg fit --gpus` itself.

use std::path::Path;
use std::sync::Arc;

use super::env::RENDEZVOUS;
use super::settings::Settings;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_engine::device::DeviceChoice;
use ctseg_engine::distributed::launcher;
use ctseg_engine::distributed::launcher::Place;
use ctseg_engine::distributed::process_group::{Collective, GpuBackend, Team};

/// Whether another process leads the training of this one.
pub(super) fn goes_along() -> bool {
    matches!(launcher::place(variable), Ok(Some(place)) if place.rank > 0)
}

/// Where this process stands, and the device that it computes on then: each of several processes of a machine has a GPU
/// of its own.
pub(super) fn place(settings: &Settings) -> Result<Option<(Place, DeviceChoice)>> {
    let Some(place) = launcher::place(variable)? else {
        return Ok(None);
    };
    settings.device.check_gpu_libraries()?;
    let device = match settings.device.resolved() {
        DeviceChoice::LibTorchCuda(_) => DeviceChoice::LibTorchCuda(own_gpu(place.local_rank)?),
        other => other,
    };
    Ok(Some((place, device)))
}

/// The GPU of process `local_rank` of this machine: the only one where its launcher shows it no other.
fn own_gpu(local_rank: usize) -> Result<usize> {
    let seen = DeviceChoice::gpus_seen().unwrap_or(0);
    match seen {
        1 => Ok(0),
        seen if local_rank < seen => Ok(local_rank),
        seen => Err(Error::usage(format!(
            "this is process {local_rank} of its machine, counted from 0, and libtorch sees {}; begin one process per GPU",
            counted(seen, "GPU")
        ))),
    }
}

/// The team of a process at `place`, which meets the others now.
pub(super) fn formed(place: &Place, device: DeviceChoice, runs: &Path) -> Result<Team> {
    let collective = match device.gpu_backend()? {
        Some(backend) => on_gpus(place, backend.as_ref(), runs)?,
        None => on_processors(place)?,
    };
    let tell = |line: &str| eprintln!("error: {line}");
    Team::of((place.rank, place.size), collective, tell)
}

#[cfg(feature = "mpi")]
fn on_processors(place: &Place) -> Result<Arc<dyn Collective>> {
    let mpi = ctseg_engine::distributed::mpi::Mpi::begin()?;
    agrees(place, (mpi.rank, mpi.size))?;
    Ok(Arc::new(mpi))
}

#[cfg(not(feature = "mpi"))]
fn on_processors(place: &Place) -> Result<Arc<dyn Collective>> {
    Err(Error::usage(format!(
        "{} say that this is process {} of {}, and this build has no MPI for processors: build ctseg with --features mpi, or unset them to train with one process",
        place.launcher, place.rank, place.size
    )))
}

/// MPI itself must know of the processes that the variables tell of.
#[cfg(feature = "mpi")]
fn agrees(place: &Place, (rank, size): (usize, usize)) -> Result<()> {
    if (place.rank, place.size) == (rank, size) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} say that this is process {} of {}, and MPI that it is {rank} of {size}: begin with mpirun, or with srun --mpi=pmix where Slurm and MPI have that plugin",
        place.launcher, place.rank, place.size
    )))
}

/// NCCL, whose name for this meeting goes round by MPI where MPI began the processes, else by a folder.
fn on_gpus(place: &Place, nccl: &dyn GpuBackend, runs: &Path) -> Result<Arc<dyn Collective>> {
    let ranks = (place.rank, place.size);
    #[cfg(feature = "mpi")]
    if matches!(
        place.launcher,
        launcher::Launcher::OpenMpi | launcher::Launcher::Pmi
    ) {
        let mpi = ctseg_engine::distributed::mpi::Mpi::begin()?;
        agrees(place, (mpi.rank, mpi.size))?;
        let mut name = nccl.new_meeting()?;
        mpi.broadcast(&mut name)?;
        return nccl.join(&name, ranks, Some(Box::new(mpi)));
    }
    let folder = match (variable(RENDEZVOUS), place.launcher.key(variable)) {
        (Some(folder), _) => folder.into(),
        (None, Some(key)) => runs.join(format!(".meeting-{key}")),
        (None, None) => {
            return Err(Error::usage(format!(
                "{} say that this is process {} of {}; name a folder that all of them see, new for each start, in {RENDEZVOUS}",
                place.launcher, place.rank, place.size
            )));
        }
    };
    let name =
        ctseg_engine::distributed::file_store::handed_on(&folder, ranks, || nccl.new_meeting())?;
    let joined = nccl.join(&name, ranks, None)?;
    if place.rank == 0 {
        ctseg_engine::distributed::file_store::forget(&folder, place.size);
    }
    Ok(joined)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
