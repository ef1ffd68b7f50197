//! MPI: all-reduce on CPUs, and rendezvous for other backends. The processes must be started by MPI itself (`mpirun`,
//! or `srun` with a plugin that this MPI supports).

// MPI calls are unsafe; arrays are borrowed only for the duration of a call.
use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use mpi::ffi;

use super::process_group::collective::Collective;
use ctseg_base::{Error, Result};

/// Values per all-reduce call: large enough to be efficient, small compared with a gradient.
const BUCKET: usize = 1 << 22;

/// How long a waiting process spins before it sleeps.
const SPIN_TIME: Duration = Duration::from_micros(200);

const SUCCESS: c_int = 0;

/// The MPI world communicator. One per process.
pub struct Mpi {
    pub rank: usize,
    pub size: usize,
}

impl Mpi {
    /// Initialises MPI; call once per process.
    pub fn init() -> Result<Self> {
        let (mut provided, mut rank, mut size) = (0, 0, 0);
        // SAFETY: MPI accepts null arguments; results are written to local variables.
        unsafe {
            let (none, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
            let required = ffi::RSMPI_THREAD_SERIALIZED;
            checked(
                ffi::MPI_Init_thread(none, nothing, required, &raw mut provided),
                "initialise",
            )?;
            if provided < required {
                return Err(Error::unsupported(
                    "this MPI lacks thread support (MPI_THREAD_SERIALIZED); use one that has it",
                ));
            }
            let world = ffi::RSMPI_COMM_WORLD;
            ffi::MPI_Comm_set_errhandler(world, ffi::RSMPI_ERRORS_RETURN);
            checked(ffi::MPI_Comm_rank(world, &raw mut rank), "get the rank")?;
            checked(
                ffi::MPI_Comm_size(world, &raw mut size),
                "get the number of ranks",
            )?;
        }
        Ok(Self {
            rank: usize::try_from(rank).unwrap_or(0),
            size: usize::try_from(size).unwrap_or(1),
        })
    }

    /// Returns once all processes have called it. Sleeps while waiting: the other processes may need the same cores.
    fn barrier(&self) -> Result<()> {
        let started = Instant::now();
        // SAFETY: the request outlives the operation.
        unsafe {
            let (mut request, mut done) = (ffi::RSMPI_REQUEST_NULL, 0);
            let world = ffi::RSMPI_COMM_WORLD;
            checked(
                ffi::MPI_Ibarrier(world, &raw mut request),
                "start a barrier",
            )?;
            loop {
                let status = ffi::RSMPI_STATUS_IGNORE;
                checked(
                    ffi::MPI_Test(&raw mut request, &raw mut done, status),
                    "wait for a barrier",
                )?;
                if done != 0 {
                    return Ok(());
                }
                match started.elapsed() {
                    waited if waited < SPIN_TIME => std::thread::yield_now(),
                    waited => std::thread::sleep((waited / 16).min(Duration::from_millis(5))),
                }
            }
        }
    }

    /// # Safety
    /// `T` must match `datatype`.
    unsafe fn sum<T: Copy>(&self, values: &mut [T], datatype: ffi::MPI_Datatype) -> Result<()> {
        self.barrier()?;
        for part in values.chunks_mut(BUCKET) {
            let own = part.to_vec();
            // SAFETY: both arrays hold the given number of values of the type.
            let status = unsafe {
                ffi::MPI_Allreduce(
                    own.as_ptr().cast::<c_void>(),
                    part.as_mut_ptr().cast::<c_void>(),
                    part.len() as c_int,
                    datatype,
                    ffi::RSMPI_SUM,
                    ffi::RSMPI_COMM_WORLD,
                )
            };
            checked(status, "all-reduce")?;
        }
        Ok(())
    }
}

impl Collective for Mpi {
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        // SAFETY: MPI's float is f32.
        unsafe { self.sum(values, ffi::RSMPI_FLOAT) }
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        // SAFETY: MPI's double is f64.
        unsafe { self.sum(values, ffi::RSMPI_DOUBLE) }
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        self.barrier()?;
        for part in bytes.chunks_mut(BUCKET) {
            // SAFETY: the array holds the given number of bytes.
            let status = unsafe {
                ffi::MPI_Bcast(
                    part.as_mut_ptr().cast::<c_void>(),
                    part.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    0,
                    ffi::RSMPI_COMM_WORLD,
                )
            };
            checked(status, "broadcast")?;
        }
        Ok(())
    }

    fn shutdown(&self) -> Result<()> {
        self.barrier()?;
        // SAFETY: no MPI call follows.
        checked(unsafe { ffi::MPI_Finalize() }, "finalise")
    }
}

fn checked(status: c_int, what: &str) -> Result<()> {
    if status == SUCCESS {
        return Ok(());
    }
    let mut text = vec![0u8; 1024]; // at least MPI_MAX_ERROR_STRING in all implementations
    let mut length = 0;
    // SAFETY: the buffer holds the longest message.
    unsafe { ffi::MPI_Error_string(status, text.as_mut_ptr().cast(), &raw mut length) };
    text.truncate(usize::try_from(length).unwrap_or(0));
    Err(Error::invalid(format!(
        "MPI cannot {what}: {}",
        String::from_utf8_lossy(&text)
    )))
}
