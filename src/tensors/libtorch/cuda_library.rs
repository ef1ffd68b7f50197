//! The CUDA half of libtorch, which is loaded only where NVIDIA's driver is. Bound to the program, it would be loaded at
//! each start: 350 MB of memory and a third of the time that a start takes, also on machines without GPUs.

use std::ffi::CStr;
use std::os::raw::c_int;

/// The driver's own library, which containers are handed in with the GPUs.
const DRIVER: &CStr = c"libcuda.so.1";
/// Found beside `libtorch_cpu.so`, by the program's rpath or `LD_LIBRARY_PATH`.
const LIBRARY: &CStr = c"libtorch_cuda.so";

/// Stands in for burn-tch's function of the same name, which nobody calls: it is there to bind `libtorch_cuda.so` to
/// the program. Where a linker takes that one nevertheless, the library is loaded as ever.
#[unsafe(no_mangle)]
extern "C" fn dummy_cuda_dependency() {}

/// Runs before `main`: libtorch keeps its first answer to whether there are GPUs.
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
static BEFORE_MAIN: extern "C" fn() = load;

extern "C" fn load() {
    open(DRIVER, libc::RTLD_LAZY) && open(LIBRARY, libc::RTLD_NOW | libc::RTLD_GLOBAL);
}

/// Whether a library can be loaded; it stays then.
fn open(name: &CStr, flags: c_int) -> bool {
    // SAFETY: the name ends in 0; what the libraries do when they are loaded, they also do when the linker loads them.
    unsafe { !libc::dlopen(name.as_ptr(), flags).is_null() }
}
