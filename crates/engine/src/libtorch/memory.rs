//! libtorch's memory: peaks, and the cache (on the CPU `shim/allocator.cpp`).

use std::ffi::{c_char, c_int, c_ulonglong};

use super::ffi::checked;
use ctseg_base::Result;

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

/// Enables the caching allocator for CPU tensors.
pub(super) fn use_caching_allocator() {
    // SAFETY: replaces a pointer inside libtorch; earlier blocks are freed by their own allocator.
    unsafe { ctseg_use_caching_allocator() }
}

/// Limits the memory of CPU tensors, in bytes; 0 = no limit. For tests of out-of-memory errors.
pub fn limit_cpu_memory(bytes: u64) {
    // SAFETY: sets a number under a lock.
    unsafe { ctseg_limit_memory(bytes) }
}

/// Bytes of CPU tensors of 1 MiB and more: in use, peak since the last reset, held.
pub fn cpu_memory() -> [u64; 3] {
    let mut figures = [0; 3];
    let [in_use, peak, held] = &mut figures;
    // SAFETY: writes to three local variables.
    unsafe { ctseg_allocator_figures(in_use, peak, held) }
    figures
}

/// Resets the peak of [`cpu_memory`].
pub fn reset_cpu_peak() {
    // SAFETY: sets a number under a lock.
    unsafe { ctseg_reset_peak() }
}

/// Peak bytes of tensors on a CUDA device since the last reset.
pub(super) fn cuda_peak(device: usize, reset: bool) -> Result<u64> {
    let (mut bytes, mut error) = (0, std::ptr::null_mut());
    // SAFETY: writes to local variables.
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

/// Limits the cache: memory held for CPU tensors may exceed the peak use by at most 1/32. Allocation takes more
/// system calls.
pub(super) fn limit_cache() {
    // SAFETY: sets a number under a lock.
    unsafe { ctseg_spare_memory(32) }
}

/// Returns unused memory to the system and the driver.
pub(super) fn empty_cache() -> Result<()> {
    let mut error = std::ptr::null_mut();
    // SAFETY: the first unmaps unused blocks under a lock; the second only writes an error.
    let status = unsafe {
        ctseg_release_free();
        ctseg_cuda_empty_cache(&raw mut error)
    };
    checked(status, error)
}
