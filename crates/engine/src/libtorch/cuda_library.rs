//! The CUDA part of libtorch, loaded only if there is an NVIDIA driver. Linked to the program, it would cost each
//! start more than 300 MB of memory and 0.14 s, even on machines without GPUs (benches/README.md).

use std::ffi::CStr;
use std::os::raw::c_int;
use std::sync::OnceLock;

use libloading::Library;

use ctseg_base::{Error, Result};

/// The driver's library; containers get it together with the GPUs.
const DRIVER: &CStr = c"libcuda.so.1";
/// Found beside `libtorch_cpu.so`, through the program's rpath or `LD_LIBRARY_PATH`.
const LIBRARY: &CStr = c"libtorch_cuda.so";

static PROBLEM: OnceLock<String> = OnceLock::new();

/// Replaces burn-tch's function of the same name, which exists only to link `libtorch_cuda.so` to the program. If a
/// linker picks that one anyway, the library is loaded at start.
#[unsafe(no_mangle)]
extern "C" fn dummy_cuda_dependency() {}

/// Runs before `main`, because libtorch caches whether there are GPUs.
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

/// The dynamic linker's message if the driver's library or libtorch's CUDA part could not be loaded. `None` if they
/// were, if there is no driver, if this libtorch has no CUDA part, and if GPUs are hidden.
pub fn cuda_problem() -> Option<&'static str> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES");
    let is_hidden = visible.is_ok_and(|visible| matches!(visible.trim(), "" | "-1"));
    PROBLEM.get().map(String::as_str).filter(|_| !is_hidden)
}

/// Loads a library permanently.
fn open(name: &CStr, flags: c_int) -> Result<(), String> {
    // SAFETY: the name ends in 0; the libraries' initialisers are the same as when the linker loads them. The
    // linker's message is copied before another call can overwrite it.
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

/// Whether the library itself is missing, as opposed to one of its dependencies.
fn is_absent(name: &CStr, problem: &str) -> bool {
    let name = name.to_str().unwrap_or_default();
    let rest = problem.strip_prefix(name).unwrap_or_default();
    rest.contains("No such file") || rest.contains("not found")
}

/// Selects `gpu` for this process's NCCL calls. libtorch's own libraries are already loaded.
///
/// # Errors
/// The CUDA runtime cannot be opened, or it cannot use the GPU.
pub(super) fn use_gpu(gpu: usize) -> Result<()> {
    let libraries = ["libcudart.so.13", "libcudart.so.12", "libcudart.so"];
    // SAFETY: opens a library that libtorch already opened; the type is that of the CUDA runtime.
    unsafe {
        let opened = libraries.iter().find_map(|name| Library::new(name).ok());
        let library = opened.ok_or_else(|| {
            Error::unsupported(format!(
                "cannot open any of {}; multi-GPU training needs a libtorch with CUDA",
                libraries.join(", ")
            ))
        })?;
        let set: libloading::Symbol<unsafe extern "C" fn(c_int) -> c_int> =
            library.get(b"cudaSetDevice").map_err(|error| {
                Error::invalid(format!("the CUDA runtime has no cudaSetDevice: {error}"))
            })?;
        match set(gpu as c_int) {
            0 => Ok(()),
            status => Err(Error::invalid(format!(
                "CUDA cannot use GPU {gpu} (error {status}); check with nvidia-smi that it exists and is free"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_distinguished_from_a_missing_dependency() {
        let problem = open(c"libtorch_cuda.so.nowhere", libc::RTLD_LAZY).unwrap_err();
        assert!(problem.contains("libtorch_cuda.so.nowhere"), "{problem}");
        let absent = |problem: &str| is_absent(LIBRARY, problem);
        let missing = "cannot open shared object file: No such file or directory";
        assert!(absent(&format!("libtorch_cuda.so: {missing}")));
        assert!(!absent(&format!("libcudnn.so.9: {missing}")));
        assert!(!absent("libtorch_cuda.so: file too short"));
    }
}
