//! MPI: on processors, and to begin other collectives with. What began the processes is MPI's own (`mpirun`, or
//! `srun` with a plugin that this MPI knows).

// Calls between processes are unsafe by nature: each one's arrays are borrowed for the call alone.
use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use mpi::ffi;

use super::process_group::collective::Collective;
use ctseg_base::{Error, Result};

/// Values that are summed in one call: as large as pays, small beside a gradient.
const BUCKET: usize = 1 << 22;

/// For how long a process that waits keeps looking without a rest.
const EAGER: Duration = Duration::from_micros(200);

const SUCCESS: c_int = 0;

/// All processes that MPI began. There is one per process.
pub struct Mpi {
    pub rank: usize,
    pub size: usize,
}

impl Mpi {
    /// Begins MPI in this process; to be called once.
    pub fn begin() -> Result<Self> {
        let (mut given, mut rank, mut size) = (0, 0, 0);
        // SAFETY: MPI takes no arguments where there are none to give; numbers are written to where they are.
        unsafe {
            let (none, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
            let asked = ffi::RSMPI_THREAD_SERIALIZED;
            checked(
                ffi::MPI_Init_thread(none, nothing, asked, &raw mut given),
                "begin",
            )?;
            if given < asked {
                return Err(Error::invalid(
                    "this MPI was built without threads (MPI_THREAD_SERIALIZED); use one that has them",
                ));
            }
            let world = ffi::RSMPI_COMM_WORLD;
            ffi::MPI_Comm_set_errhandler(world, ffi::RSMPI_ERRORS_RETURN);
            checked(ffi::MPI_Comm_rank(world, &raw mut rank), "count processes")?;
            checked(ffi::MPI_Comm_size(world, &raw mut size), "count processes")?;
        }
        Ok(Self {
            rank: usize::try_from(rank).unwrap_or(0),
            size: usize::try_from(size).unwrap_or(1),
        })
    }

    /// Returns once all processes have called it. Until then this one rests: the others may have much to do, on the
    /// same cores.
    fn meet(&self) -> Result<()> {
        let begun = Instant::now();
        // SAFETY: the request lives until it is done.
        unsafe {
            let (mut request, mut done) = (ffi::RSMPI_REQUEST_NULL, 0);
            let world = ffi::RSMPI_COMM_WORLD;
            checked(ffi::MPI_Ibarrier(world, &raw mut request), "meet")?;
            loop {
                let status = ffi::RSMPI_STATUS_IGNORE;
                checked(
                    ffi::MPI_Test(&raw mut request, &raw mut done, status),
                    "meet",
                )?;
                if done != 0 {
                    return Ok(());
                }
                match begun.elapsed() {
                    waited if waited < EAGER => std::thread::yield_now(),
                    waited => std::thread::sleep((waited / 16).min(Duration::from_millis(5))),
                }
            }
        }
    }

    /// # Safety
    /// `T` is what `datatype` says.
    unsafe fn sum<T: Copy>(&self, values: &mut [T], datatype: ffi::MPI_Datatype) -> Result<()> {
        self.meet()?;
        for part in values.chunks_mut(BUCKET) {
            let own = part.to_vec();
            // SAFETY: both arrays have as many values of the type as is said.
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
            checked(status, "add up")?;
        }
        Ok(())
    }
}

impl Collective for Mpi {
    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        // SAFETY: MPI's float is f32.
        unsafe { self.sum(values, ffi::RSMPI_FLOAT) }
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        // SAFETY: MPI's double is f64.
        unsafe { self.sum(values, ffi::RSMPI_DOUBLE) }
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        self.meet()?;
        for part in bytes.chunks_mut(BUCKET) {
            // SAFETY: the array has as many bytes as is said.
            let status = unsafe {
                ffi::MPI_Bcast(
                    part.as_mut_ptr().cast::<c_void>(),
                    part.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    0,
                    ffi::RSMPI_COMM_WORLD,
                )
            };
            checked(status, "hand on")?;
        }
        Ok(())
    }

    fn end(&self) -> Result<()> {
        self.meet()?;
        // SAFETY: nothing of MPI is called any more after this.
        checked(unsafe { ffi::MPI_Finalize() }, "end")
    }
}

fn checked(status: c_int, what: &str) -> Result<()> {
    if status == SUCCESS {
        return Ok(());
    }
    let mut text = vec![0u8; 1024]; // MPI_MAX_ERROR_STRING is at most so much in the MPIs that there are
    let mut length = 0;
    // SAFETY: the text has room for the longest message.
    unsafe { ffi::MPI_Error_string(status, text.as_mut_ptr().cast(), &raw mut length) };
    text.truncate(usize::try_from(length).unwrap_or(0));
    Err(Error::invalid(format!(
        "MPI cannot {what}: {}",
        String::from_utf8_lossy(&text)
    )))
}
