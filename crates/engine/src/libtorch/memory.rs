//! Memory that libtorch keeps for later tensors (`shim/allocator.cpp` on the CPU), and what to do when it runs out.

use std::ffi::{c_char, c_int, c_ulonglong};

use super::ffi::checked;
use ctseg_base::{Error, Result};

unsafe extern "C" {
    fn ctseg_use_caching_allocator();
    fn ctseg_limit_memory(bytes: c_ulonglong);
    fn ctseg_spare_memory(share: c_ulonglong);
    fn ctseg_allocator_figures(
        in_use: *mut c_ulonglong,
        peak: *mut c_ulonglong,
        held: *mut c_ulonglong,
    );
    fn ctseg_reset_peak();
    fn ctseg_cuda_empty_cache(error: *mut *mut c_char) -> c_int;
    fn ctseg_cuda_peak(
        device: c_int,
        reset: c_int,
        bytes: *mut c_ulonglong,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_release_free();
}

/// Memory of CPU tensors is kept for the next tensor from here on.
pub(super) fn use_caching_allocator() {
    // SAFETY: replaces a pointer inside libtorch; blocks of the allocator before are freed by their own.
    unsafe { ctseg_use_caching_allocator() }
}

/// From here on CPU tensors may hold so many bytes; 0 = no limit. For tests of what happens then.
pub fn limit_cpu_memory(bytes: u64) {
    // SAFETY: sets a number under a lock.
    unsafe { ctseg_limit_memory(bytes) }
}

/// Bytes of CPU tensors of 1 MiB and more: in use, most in use since the last reset, held.
pub fn cpu_memory() -> [u64; 3] {
    let mut figures = [0; 3];
    let [in_use, peak, held] = &mut figures;
    // SAFETY: three places to write to.
    unsafe { ctseg_allocator_figures(in_use, peak, held) }
    figures
}

/// Forgets the peak of [`cpu_memory`].
pub fn reset_cpu_peak() {
    // SAFETY: sets a number under a lock.
    unsafe { ctseg_reset_peak() }
}

/// Most bytes that tensors held on a CUDA device since the last reset.
pub(super) fn cuda_peak(device: usize, reset: bool) -> Result<u64> {
    let (mut bytes, mut error) = (0, std::ptr::null_mut());
    // SAFETY: places to write to.
    let status = unsafe {
        ctseg_cuda_peak(
            device as c_int,
            c_int::from(reset),
            &raw mut bytes,
            &raw mut error,
        )
    };
    checked(status, error)?;
    Ok(bytes)
}

/// Whether `error` says that a device had no memory left.
pub(super) fn is_out_of_memory(error: &Error) -> bool {
    const SIGNS: [&str; 6] = [
        "out of memory",
        "can't allocate memory",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "unable to find an engine",
        "Unable to find a valid cuDNN algorithm",
    ];
    let text = error.to_string();
    SIGNS.iter().any(|sign| text.contains(sign))
}

/// Less memory is kept for later tensors from here on, at the cost of asking the system for it more often: CPU tensors
/// hold at most one part in 32 more than was ever in use at once.
pub(super) fn keep_little() {
    // SAFETY: sets a number under a lock.
    unsafe { ctseg_spare_memory(32) }
}

/// Gives memory that no tensor holds back to the system and to the driver.
pub(super) fn free_memory() -> Result<()> {
    let mut error = std::ptr::null_mut();
    // SAFETY: the first unmaps blocks that no tensor holds, under a lock; a place for an error is all that the other takes.
    let status = unsafe {
        ctseg_release_free();
        ctseg_cuda_empty_cache(&raw mut error)
    };
    checked(status, error)
}
