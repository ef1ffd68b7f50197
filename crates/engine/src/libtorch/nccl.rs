//! NCCL: all-reduce between NVIDIA GPUs. The library is libtorch's own `libnccl.so.2`, loaded only when needed, so
//! builds and machines without GPUs do not need it.
//!
//! Names and constants are those of NCCL 2's `nccl.h`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libloading::Library;
use tch::{Device, Tensor};

use super::cuda_library::use_gpu;
use super::ops::torch_error;
use crate::distributed::process_group::{Collective, GpuBackend, GpuValues};
use ctseg_base::limits::spawn::spawn;
use ctseg_base::{Error, Result};

/// Environment variable for another `libnccl.so.2` than libtorch's.
const LIBRARY: &str = "CTSEG_NCCL";

const UNIQUE_ID_BYTES: usize = 128;
const UINT8: c_int = 1;
const FLOAT32: c_int = 7;
const FLOAT64: c_int = 8;
const SUM: c_int = 0;
const SUCCESS: c_int = 0;
/// How long the other processes may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(600);
const IN_PROGRESS: c_int = 7;

#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; UNIQUE_ID_BYTES]);

type Comm = *mut c_void;
/// CUDA's default stream, as in libtorch: all-reduce runs in order with libtorch's kernels.
const STREAM: *mut c_void = std::ptr::null_mut();

type AllReduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    Comm,
    *mut c_void,
) -> c_int;
type Broadcast = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    Comm,
    *mut c_void,
) -> c_int;

/// The opened library.
#[derive(Clone)]
pub(super) struct Nccl {
    calls: Arc<Calls>,
    device: Device,
}

struct Calls {
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> c_int,
    all_reduce: AllReduce,
    broadcast: Broadcast,
    async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    destroy: unsafe extern "C" fn(Comm) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Keeps the functions loaded.
    _library: Library,
}

impl Nccl {
    /// Opens libtorch's library, or the one in `CTSEG_NCCL`, for all-reduce on `gpu`.
    ///
    /// # Errors
    /// The library is missing or lacks a function, or this process cannot use the GPU.
    pub(super) fn open(gpu: usize) -> Result<Self> {
        use_gpu(gpu)?;
        let named = std::env::var(LIBRARY).ok().filter(|path| !path.is_empty());
        Self::open_at(
            named.as_deref().unwrap_or("libnccl.so.2"),
            Device::Cuda(gpu),
        )
    }

    fn open_at(path: &str, device: Device) -> Result<Self> {
        let missing = |error: libloading::Error| {
            Error::unsupported(format!(
                "{path}: cannot open NCCL ({error}), which multi-GPU training needs; install a libtorch with CUDA (scripts/setup-libtorch.sh), or set {LIBRARY} to its library"
            ))
        };
        // SAFETY: NCCL runs no code of its own when opened; types are those of nccl.h.
        unsafe {
            let library = Library::new(path).map_err(missing)?;
            let calls = Arc::new(Calls {
                unique_id: *library.get(b"ncclGetUniqueId").map_err(missing)?,
                init: *library.get(b"ncclCommInitRank").map_err(missing)?,
                all_reduce: *library.get(b"ncclAllReduce").map_err(missing)?,
                broadcast: *library.get(b"ncclBroadcast").map_err(missing)?,
                async_error: *library.get(b"ncclCommGetAsyncError").map_err(missing)?,
                destroy: *library.get(b"ncclCommDestroy").map_err(missing)?,
                error_string: *library.get(b"ncclGetErrorString").map_err(missing)?,
                _library: library,
            });
            Ok(Self { calls, device })
        }
    }

    fn join_on(
        &self,
        unique_id: &[u8],
        (rank, size): (usize, usize),
        cpu_collective: Option<Box<dyn Collective>>,
    ) -> Result<NcclGroup> {
        let unique_id: [u8; UNIQUE_ID_BYTES] = unique_id.try_into().map_err(|_| {
            Error::invalid(format!(
                "NCCL's unique id has {} bytes, expected {UNIQUE_ID_BYTES}; all ranks must run the same ctseg version",
                unique_id.len()
            ))
        })?;
        let unique_id = UniqueId(unique_id.map(|letter| letter as c_char));
        let mut comm: Comm = std::ptr::null_mut();
        // SAFETY: the communicator is written to a local variable.
        let status =
            unsafe { (self.calls.init)(&raw mut comm, size as c_int, unique_id, rank as c_int) };
        self.calls.checked(status, "join the other ranks")?;
        Ok(NcclGroup {
            calls: Arc::clone(&self.calls),
            comm: Mutex::new(Some(Communicator(comm))),
            device: self.device,
            cpu_collective,
        })
    }
}

impl GpuBackend for Nccl {
    fn new_unique_id(&self) -> Result<Vec<u8>> {
        let mut unique_id = UniqueId([0; UNIQUE_ID_BYTES]);
        // SAFETY: writes to a local variable.
        let status = unsafe { (self.calls.unique_id)(&raw mut unique_id) };
        self.calls.checked(status, "create a unique id")?;
        Ok(unique_id.0.map(|letter| letter as u8).to_vec())
    }

    fn join(
        &self,
        unique_id: &[u8],
        (rank, size): (usize, usize),
        cpu_collective: Option<Box<dyn Collective>>,
    ) -> Result<Arc<dyn Collective>> {
        let cancelled = start_join_timeout(rank)?;
        let joined = self.join_on(unique_id, (rank, size), cpu_collective);
        cancelled.store(true, Ordering::Relaxed);
        Ok(Arc::new(joined?))
    }
}

impl Calls {
    fn checked(&self, status: c_int, what: &str) -> Result<()> {
        if status == SUCCESS || status == IN_PROGRESS {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "NCCL cannot {what}: {}; set NCCL_DEBUG=INFO for details",
            self.text(status)
        )))
    }

    fn text(&self, status: c_int) -> String {
        // SAFETY: NCCL's texts are static.
        let text = unsafe { CStr::from_ptr((self.error_string)(status)) };
        text.to_string_lossy().into_owned()
    }
}

struct Communicator(Comm);

// SAFETY: NCCL allows any thread to use a communicator, one at a time.
unsafe impl Send for Communicator {}

/// A joined group of processes.
struct NcclGroup {
    calls: Arc<Calls>,
    /// `None` after shutdown.
    comm: Mutex<Option<Communicator>>,
    device: Device,
    cpu_collective: Option<Box<dyn Collective>>,
}

impl NcclGroup {
    fn comm(&self) -> MutexGuard<'_, Option<Communicator>> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The communicator for NCCL calls; the watchdog may query its state meanwhile.
    fn open(&self) -> Result<Comm> {
        let comm = self.comm().as_ref().map(|comm| comm.0);
        comm.ok_or_else(|| Error::internal("an all-reduce after NCCL's shutdown"))
    }

    fn sum(&self, address: *mut c_void, count: usize, kind: c_int) -> Result<()> {
        let comm = self.open()?;
        // SAFETY: `count` values of the type are at the address, on this process's GPU.
        let status =
            unsafe { (self.calls.all_reduce)(address, address, count, kind, SUM, comm, STREAM) };
        self.calls.checked(status, "all-reduce")
    }

    /// Copies `values` to the GPU, calls `work` on them, and copies them back.
    fn on_gpu<T: tch::kind::Element + Copy>(
        &self,
        values: &mut [T],
        work: impl FnOnce(*mut c_void, usize) -> Result<()>,
    ) -> Result<()> {
        let there = Tensor::f_from_slice(values)
            .and_then(|tensor| tensor.f_to_device(self.device))
            .map_err(torch_error)?;
        work(there.data_ptr(), values.len())?;
        // Synchronises with the GPU.
        let here = there.f_to_device(Device::Cpu).map_err(torch_error)?;
        let count = values.len();
        here.f_copy_data(values, count).map_err(torch_error)
    }
}

impl Collective for NcclGroup {
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        match &self.cpu_collective {
            Some(cpu_collective) => cpu_collective.all_reduce_f32(values),
            None => self.on_gpu(values, |address, count| self.sum(address, count, FLOAT32)),
        }
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        match &self.cpu_collective {
            Some(cpu_collective) => cpu_collective.all_reduce_f64(values),
            None => self.on_gpu(values, |address, count| self.sum(address, count, FLOAT64)),
        }
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        if let Some(cpu_collective) = &self.cpu_collective {
            return cpu_collective.broadcast(bytes);
        }
        self.on_gpu(bytes, |address, count| {
            let comm = self.open()?;
            // SAFETY: as in `sum`.
            let status =
                unsafe { (self.calls.broadcast)(address, address, count, UINT8, 0, comm, STREAM) };
            self.calls.checked(status, "broadcast")
        })
    }

    fn all_reduce_gpu(&self, values: GpuValues) -> Option<Result<()>> {
        Some(self.sum(values.address.cast(), values.count, FLOAT32))
    }

    fn fault(&self) -> Option<String> {
        let comm = self.comm(); // held, so that it does not end meanwhile
        let mut state = SUCCESS;
        // SAFETY: writes to a local variable; may be called while the communicator is in use.
        let status = unsafe { (self.calls.async_error)(comm.as_ref()?.0, &raw mut state) };
        let fine = |status| status == SUCCESS || status == IN_PROGRESS;
        (!fine(status) || !fine(state))
            .then(|| format!("NCCL lost another rank ({})", self.calls.text(state)))
    }

    fn shutdown(&self) -> Result<()> {
        self.all_reduce_f64(&mut [0.0])?;
        if let Some(Communicator(comm)) = self.comm().take() {
            // SAFETY: the last call with this communicator, which has been removed.
            let status = unsafe { (self.calls.destroy)(comm) };
            self.calls.checked(status, "shut down")?;
        }
        match &self.cpu_collective {
            Some(cpu_collective) => cpu_collective.shutdown(),
            None => Ok(()),
        }
    }
}

/// Exits if the other processes do not join in time: NCCL itself waits forever. Set the returned flag to cancel.
fn start_join_timeout(rank: usize) -> Result<Arc<AtomicBool>> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancelled);
    let wait = move || {
        std::thread::sleep(JOIN_TIMEOUT);
        if !flag.load(Ordering::Relaxed) {
            eprintln!(
                "error: rank {rank} waited {} minutes for the other ranks to join NCCL; one of them has failed or cannot be reached",
                JOIN_TIMEOUT.as_secs() / 60
            );
            // SAFETY: ends the process, which is doing nothing else.
            unsafe { libc::_exit(1) };
        }
    };
    spawn("nccl", wait)?;
    Ok(cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A library with NCCL's functions for threads, on host memory (`nccl_on_threads.c`).
    fn library(folder: &std::path::Path) -> String {
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/libtorch/nccl_on_threads.c"
        );
        let library = folder.join("libnccl.so.2");
        let compiled = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-pthread", "-o"])
            .arg(&library)
            .arg(source)
            .status();
        assert!(compiled.unwrap().success());
        library.to_str().unwrap().to_owned()
    }

    #[test]
    fn threads_join_and_reduce_through_nccl_calls() {
        let folder = tempfile::tempdir().unwrap();
        let nccl = Nccl::open_at(&library(folder.path()), Device::Cpu).unwrap();
        let unique_id = nccl.new_unique_id().unwrap();
        assert_eq!(unique_id.len(), UNIQUE_ID_BYTES);
        std::thread::scope(|scope| {
            for rank in 0..3usize {
                let (nccl, unique_id) = (nccl.clone(), unique_id.clone());
                scope.spawn(move || {
                    let joined = nccl.join_on(&unique_id, (rank, 3), None).unwrap();
                    let mut wide = [rank as f64, 0.25, -1.0];
                    joined.all_reduce_f64(&mut wide).unwrap();
                    assert_eq!(wide, [3.0, 0.75, -3.0]);
                    let mut values = vec![rank as f32 + 0.5; 70_000];
                    joined.all_reduce_f32(&mut values).unwrap();
                    assert!(values.iter().all(|value| *value == 4.5));
                    let mut bytes = vec![rank as u8 + 7; 100];
                    joined.broadcast(&mut bytes).unwrap();
                    assert_eq!(bytes, [7; 100]);
                    // Gradients, in place.
                    let own = Tensor::from_slice(&vec![rank as f32; 1000]);
                    let values = GpuValues {
                        address: own.data_ptr().cast(),
                        count: 1000,
                    };
                    joined.all_reduce_gpu(values).unwrap().unwrap();
                    assert_eq!(Vec::<f32>::try_from(&own).unwrap(), [3.0; 1000]);
                    assert_eq!(joined.fault(), None);
                    joined.shutdown().unwrap();
                    assert_eq!(joined.fault(), None, "queried after shutdown");
                    assert!(joined.all_reduce_f64(&mut wide).is_err());
                });
            }
        });
        assert!(nccl.join_on(b"short", (0, 1), None).is_err());
        let said = nccl.join_on(&[0; 128], (0, 2), None);
        let said = said.err().unwrap().to_string();
        assert!(said.contains("invalid argument"), "{said}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let said = Nccl::open_at("/nowhere/libnccl.so.2", Device::Cpu)
            .err()
            .unwrap();
        let said = said.to_string();
        assert!(
            said.contains("setup-libtorch") && !said.contains('\n'),
            "{said}"
        );
    }
}
