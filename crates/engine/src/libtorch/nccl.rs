//! NCCL: sums over NVIDIA GPUs, from GPU to GPU. The library is libtorch's own `libnccl.so.2`, looked for when it is
//! wanted and not before: builds and machines without GPUs do without.
//!
//! Names and numbers are those of NCCL 2's `nccl.h`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libloading::Library;
use tch::{Device, Tensor};

use super::cuda_library::use_gpu;
use super::ops::failed;
use crate::distributed::process_group::{Collective, GpuBackend, GpuValues};
use ctseg_base::limits::spawn::spawn;
use ctseg_base::{Error, Result};

/// Another `libnccl.so.2` than the one that libtorch brings.
const LIBRARY: &str = "CTSEG_NCCL";

const NAME_BYTES: usize = 128;
const UINT8: c_int = 1;
const FLOAT32: c_int = 7;
const FLOAT64: c_int = 8;
const SUM: c_int = 0;
const SUCCESS: c_int = 0;
/// How long the others may take to come once all were begun.
const PATIENCE: Duration = Duration::from_secs(600);
const IN_PROGRESS: c_int = 7;

#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; NAME_BYTES]);

type Comm = *mut c_void;
/// CUDA's default stream, which is libtorch's: sums follow what was computed before, and come before what is next.
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

/// The library, opened.
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
    /// Holds all of them.
    _library: Library,
}

impl Nccl {
    /// libtorch's library, or the one that `CTSEG_NCCL` names, for sums on `gpu`.
    ///
    /// # Errors
    /// There is none, or it lacks a function, or this process cannot use the GPU.
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
            Error::invalid(format!(
                "{path}: several GPUs train together by NCCL, which cannot be opened ({error}); install a libtorch with CUDA (scripts/setup-libtorch.sh), or name its library in {LIBRARY}"
            ))
        };
        // SAFETY: NCCL runs nothing of its own when it is opened; types are those of nccl.h.
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
        name: &[u8],
        (rank, size): (usize, usize),
        beside: Option<Box<dyn Collective>>,
    ) -> Result<Joined> {
        let name: [u8; NAME_BYTES] = name.try_into().map_err(|_| {
            Error::invalid(format!(
                "a meeting of NCCL has a name of {NAME_BYTES} bytes, found {}; all processes must run the same ctseg",
                name.len()
            ))
        })?;
        let name = UniqueId(name.map(|letter| letter as c_char));
        let mut comm: Comm = std::ptr::null_mut();
        // SAFETY: the communicator is written to where it is.
        let status =
            unsafe { (self.calls.init)(&raw mut comm, size as c_int, name, rank as c_int) };
        self.calls.checked(status, "meet the other processes")?;
        Ok(Joined {
            calls: Arc::clone(&self.calls),
            comm: Mutex::new(Some(Communicator(comm))),
            device: self.device,
            beside,
        })
    }
}

impl GpuBackend for Nccl {
    fn new_meeting(&self) -> Result<Vec<u8>> {
        let mut name = UniqueId([0; NAME_BYTES]);
        // SAFETY: writes to where the name is.
        let status = unsafe { (self.calls.unique_id)(&raw mut name) };
        self.calls.checked(status, "begin")?;
        Ok(name.0.map(|letter| letter as u8).to_vec())
    }

    fn join(
        &self,
        name: &[u8],
        (rank, size): (usize, usize),
        beside: Option<Box<dyn Collective>>,
    ) -> Result<Arc<dyn Collective>> {
        let met = patiently(rank)?;
        let joined = self.join_on(name, (rank, size), beside);
        met.store(true, Ordering::Relaxed);
        Ok(Arc::new(joined?))
    }
}

impl Calls {
    fn checked(&self, status: c_int, what: &str) -> Result<()> {
        if status == SUCCESS || status == IN_PROGRESS {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "NCCL cannot {what}: {}; NCCL_DEBUG=INFO tells more",
            self.text(status)
        )))
    }

    fn text(&self, status: c_int) -> String {
        // SAFETY: NCCL's texts are constants.
        let text = unsafe { CStr::from_ptr((self.error_string)(status)) };
        text.to_string_lossy().into_owned()
    }
}

struct Communicator(Comm);

// SAFETY: NCCL lets any thread use a communicator, one at a time.
unsafe impl Send for Communicator {}

/// A place in a meeting.
struct Joined {
    calls: Arc<Calls>,
    /// None once it has ended.
    comm: Mutex<Option<Communicator>>,
    device: Device,
    beside: Option<Box<dyn Collective>>,
}

impl Joined {
    fn comm(&self) -> MutexGuard<'_, Option<Communicator>> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To call NCCL with; the watch may ask for its state meanwhile.
    fn open(&self) -> Result<Comm> {
        let comm = self.comm().as_ref().map(|comm| comm.0);
        comm.ok_or_else(|| Error::invalid("internal: a sum after the end of a meeting"))
    }

    fn sum(&self, address: *mut c_void, count: usize, kind: c_int) -> Result<()> {
        let comm = self.open()?;
        // SAFETY: so many values of the kind lie at the address, on this process's GPU.
        let status =
            unsafe { (self.calls.all_reduce)(address, address, count, kind, SUM, comm, STREAM) };
        self.calls.checked(status, "add up")
    }

    /// Lets `work` do with a copy of `values` on the GPU, and copies it back.
    fn on_gpu<T: tch::kind::Element + Copy>(
        &self,
        values: &mut [T],
        work: impl FnOnce(*mut c_void, usize) -> Result<()>,
    ) -> Result<()> {
        let there = Tensor::f_from_slice(values)
            .and_then(|tensor| tensor.f_to_device(self.device))
            .map_err(failed)?;
        work(there.data_ptr(), values.len())?;
        // Waits for the GPU.
        let here = there.f_to_device(Device::Cpu).map_err(failed)?;
        let count = values.len();
        here.f_copy_data(values, count).map_err(failed)
    }
}

impl Collective for Joined {
    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        match &self.beside {
            Some(beside) => beside.sum_f32(values),
            None => self.on_gpu(values, |address, count| self.sum(address, count, FLOAT32)),
        }
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        match &self.beside {
            Some(beside) => beside.sum_f64(values),
            None => self.on_gpu(values, |address, count| self.sum(address, count, FLOAT64)),
        }
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        if let Some(beside) = &self.beside {
            return beside.broadcast(bytes);
        }
        self.on_gpu(bytes, |address, count| {
            let comm = self.open()?;
            // SAFETY: as in `sum`.
            let status =
                unsafe { (self.calls.broadcast)(address, address, count, UINT8, 0, comm, STREAM) };
            self.calls.checked(status, "hand on")
        })
    }

    fn sum_on_gpu(&self, values: GpuValues) -> Option<Result<()>> {
        Some(self.sum(values.address.cast(), values.count, FLOAT32))
    }

    fn fault(&self) -> Option<String> {
        let comm = self.comm(); // held, so that it does not end meanwhile
        let mut state = SUCCESS;
        // SAFETY: writes to where the state is; may be asked while the communicator is at work.
        let status = unsafe { (self.calls.async_error)(comm.as_ref()?.0, &raw mut state) };
        let fine = |status| status == SUCCESS || status == IN_PROGRESS;
        (!fine(status) || !fine(state))
            .then(|| format!("NCCL has lost another process ({})", self.calls.text(state)))
    }

    fn end(&self) -> Result<()> {
        self.sum_f64(&mut [0.0])?;
        if let Some(Communicator(comm)) = self.comm().take() {
            // SAFETY: the last call with this communicator, which nobody finds any more.
            let status = unsafe { (self.calls.destroy)(comm) };
            self.calls.checked(status, "end")?;
        }
        match &self.beside {
            Some(beside) => beside.end(),
            None => Ok(()),
        }
    }
}

/// Ends the process where the others do not come: NCCL itself waits for ever. Until what it returns is set.
fn patiently(rank: usize) -> Result<Arc<AtomicBool>> {
    let met = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&met);
    let waits = move || {
        std::thread::sleep(PATIENCE);
        if !seen.load(Ordering::Relaxed) {
            eprintln!(
                "error: process {rank} waited {} minutes for the others to meet by NCCL; one of them has failed before, or cannot be reached",
                PATIENCE.as_secs() / 60
            );
            // SAFETY: ends the process, which has nothing under way but this.
            unsafe { libc::_exit(1) };
        }
    };
    spawn("nccl", waits)?;
    Ok(met)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A library with NCCL's functions whose GPUs are threads' own memory (`nccl_on_threads.c`).
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
    fn threads_meet_by_the_calls_of_nccl() {
        let folder = tempfile::tempdir().unwrap();
        let nccl = Nccl::open_at(&library(folder.path()), Device::Cpu).unwrap();
        let name = nccl.new_meeting().unwrap();
        assert_eq!(name.len(), NAME_BYTES);
        std::thread::scope(|scope| {
            for rank in 0..3usize {
                let (nccl, name) = (nccl.clone(), name.clone());
                scope.spawn(move || {
                    let joined = nccl.join_on(&name, (rank, 3), None).unwrap();
                    let mut wide = [rank as f64, 0.25, -1.0];
                    joined.sum_f64(&mut wide).unwrap();
                    assert_eq!(wide, [3.0, 0.75, -3.0]);
                    let mut values = vec![rank as f32 + 0.5; 70_000];
                    joined.sum_f32(&mut values).unwrap();
                    assert!(values.iter().all(|value| *value == 4.5));
                    let mut bytes = vec![rank as u8 + 7; 100];
                    joined.broadcast(&mut bytes).unwrap();
                    assert_eq!(bytes, [7; 100]);
                    // Gradients, where they lie.
                    let own = Tensor::from_slice(&vec![rank as f32; 1000]);
                    let values = GpuValues {
                        address: own.data_ptr().cast(),
                        count: 1000,
                    };
                    joined.sum_on_gpu(values).unwrap().unwrap();
                    assert_eq!(Vec::<f32>::try_from(&own).unwrap(), [3.0; 1000]);
                    assert_eq!(joined.fault(), None);
                    joined.end().unwrap();
                    assert_eq!(joined.fault(), None, "asked of what has ended");
                    assert!(joined.sum_f64(&mut wide).is_err());
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
