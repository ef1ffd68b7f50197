//! The CUDA half of libtorch, which is loaded only where NVIDIA's driver is. Bound to the program, it would cost each start
//! more than 300 MB of memory and 0.14 s, also on machines without GPUs (benches/README.md).

use std::ffi::CStr;
use std::os::raw::c_int;
use std::sync::OnceLock;

use libloading::Library;

use ctseg_base::{Error, Result};

/// The driver's own library, which containers are handed in with the GPUs.
const DRIVER: &CStr = c"libcuda.so.1";
/// Found beside `libtorch_cpu.so`, by the program's rpath or `LD_LIBRARY_PATH`.
const LIBRARY: &CStr = c"libtorch_cuda.so";

static PROBLEM: OnceLock<String> = OnceLock::new();

/// Stands in for burn-tch's function of the same name, which nobody calls: it is there to bind `libtorch_cuda.so` to
/// the program. Where a linker takes that one nevertheless, the library is loaded as ever.
#[unsafe(no_mangle)]
extern "C" fn dummy_cuda_dependency() {}

/// Runs before `main`: libtorch keeps its first answer to whether there are GPUs.
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
static BEFORE_MAIN: extern "C" fn() = load;

extern "C" fn load() {
    let libraries = [
        (DRIVER, libc::RTLD_LAZY),
        (LIBRARY, libc::RTLD_NOW | libc::RTLD_GLOBAL),
    ];
    for (name, flags) in libraries {
        let Err(problem) = open(name, flags) else {
            continue;
        };
        if !is_absent(name, &problem) {
            let _ = PROBLEM.set(problem); // once: nothing is loaded after it
        }
        return;
    }
}

/// Why the driver's library or libtorch's half for GPUs could not be loaded, in the words of the dynamic linker; none where
/// they were, where there is no driver, in builds of libtorch that have no such half, and where GPUs are hidden.
pub fn cuda_problem() -> Option<&'static str> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES");
    let is_hidden = visible.is_ok_and(|visible| matches!(visible.trim(), "" | "-1"));
    PROBLEM.get().map(String::as_str).filter(|_| !is_hidden)
}

/// A library that can be loaded stays.
fn open(name: &CStr, flags: c_int) -> Result<(), String> {
    // SAFETY: the name ends in 0; what the libraries do when they are loaded, they also do when the linker loads them.
    // The linker's message is copied before another call can change it.
    unsafe {
        if !libc::dlopen(name.as_ptr(), flags).is_null() {
            return Ok(());
        }
        let said = libc::dlerror();
        match said.is_null() {
            true => Err("it cannot be loaded".to_owned()),
            false => Err(CStr::from_ptr(said).to_string_lossy().into_owned()),
        }
    }
}

/// Whether it is the library itself that is not there, and not one that it needs.
fn is_absent(name: &CStr, problem: &str) -> bool {
    let name = name.to_str().unwrap_or_default();
    let rest = problem.strip_prefix(name).unwrap_or_default();
    rest.contains("No such file") || rest.contains("not found")
}

/// Makes `gpu` the one that NCCL takes for this process's. libtorch's own libraries have been loaded by now.
///
/// # Errors
/// CUDA's runtime cannot be opened, or it cannot use the GPU.
pub(super) fn use_gpu(gpu: usize) -> Result<()> {
    let libraries = ["libcudart.so.13", "libcudart.so.12", "libcudart.so"];
    // SAFETY: opens what libtorch opened already; the type is that of CUDA's runtime.
    unsafe {
        let opened = libraries.iter().find_map(|name| Library::new(name).ok());
        let library = opened.ok_or_else(|| {
            Error::invalid(format!(
                "none of {} can be opened; several GPUs need a libtorch with CUDA",
                libraries.join(", ")
            ))
        })?;
        let set: libloading::Symbol<unsafe extern "C" fn(c_int) -> c_int> =
            library.get(b"cudaSetDevice").map_err(|error| {
                Error::invalid(format!("CUDA's runtime has no cudaSetDevice: {error}"))
            })?;
        match set(gpu as c_int) {
            0 => Ok(()),
            status => Err(Error::invalid(format!(
                "CUDA cannot use GPU {gpu} (error {status}); nvidia-smi tells whether it is there and free"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_told_from_one_that_lacks_another() {
        let problem = open(c"libtorch_cuda.so.nowhere", libc::RTLD_LAZY).unwrap_err();
        assert!(problem.contains("libtorch_cuda.so.nowhere"), "{problem}");
        let absent = |problem: &str| is_absent(LIBRARY, problem);
        let missing = "cannot open shared object file: No such file or directory";
        assert!(absent(&format!("libtorch_cuda.so: {missing}")));
        assert!(!absent(&format!("libcudnn.so.9: {missing}")));
        assert!(!absent("libtorch_cuda.so: file too short"));
    }
}
