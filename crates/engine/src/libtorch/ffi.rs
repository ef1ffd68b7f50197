//! Safe wrappers of the engine's C++ part (`shim/api.h`).

use std::ffi::{CStr, c_char, c_double, c_int, c_longlong, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use super::error::libtorch_error;
use crate::distributed::process_group::ProcessGroup;
use ctseg_base::cancel::catch_panic;
use ctseg_base::{Error, Result};

/// See `CtsegLayer` in `shim/api.h`.
#[repr(C)]
pub(super) struct RawLayer {
    pub weight: *const C_tensor,
    pub bias: *const C_tensor,
    pub gamma: *const C_tensor,
    pub beta: *const C_tensor,
    pub mean: *const C_tensor,
    pub variance: *const C_tensor,
    pub norm: c_int,
    pub groups: c_int,
    pub dimensions: c_int,
    pub stride: [c_longlong; 3],
    pub padding: [c_longlong; 3],
    pub momentum: c_double,
    pub epsilon: c_double,
    pub slope: c_double,
}

/// The mode of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Inference = 0,
    /// Uses batch statistics, but does not update the running ones.
    BatchStatistics = 1,
    Training = 2,
}

/// See `CtsegWhole` in `shim/api.h`.
type AllReduce = unsafe extern "C" fn(*mut c_double, c_longlong, *mut c_void);

unsafe extern "C" {
    fn ctseg_conv_block(
        x: *const C_tensor,
        layers: *const RawLayer,
        count: c_int,
        training: c_int,
        recompute: c_int,
        result: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_bce_dice(
        logits: *const C_tensor,
        targets: *const C_tensor,
        bce_share: c_double,
        dice_share: c_double,
        scale: c_double,
        fused: c_int,
        all_reduce: Option<AllReduce>,
        context: *mut c_void,
        loss: *mut c_double,
        gradient: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_share_norms(all_reduce: Option<AllReduce>, context: *mut c_void);
    fn ctseg_backward(
        tensors: *const *const C_tensor,
        gradients: *const *const C_tensor,
        count: c_int,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_pinned(
        tensor: *const C_tensor,
        result: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_cuda_has_bf16() -> c_int;
    fn ctseg_knows_cuda() -> c_int;
}

/// Converts a status of the shim to a result; takes ownership of its error text.
pub(super) fn checked(status: c_int, error: *mut c_char) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    if error.is_null() {
        return Err(Error::invalid("libtorch failed without a message"));
    }
    // SAFETY: the shim passes ownership of a string allocated with strdup.
    let text = unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        libc::free(error.cast());
        text
    };
    Err(libtorch_error(&text))
}

pub(super) fn pointers(tensors: &[Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(Tensor::as_ptr).collect()
}

/// Pointers to the tensors of several lists, and the common length of the lists.
///
/// # Errors
/// Lists of different lengths: the shim would read past the end of the shorter ones.
pub(super) fn equal_lists<const N: usize>(
    lists: [&[Tensor]; N],
) -> Result<([Vec<*const C_tensor>; N], c_int)> {
    let lengths = lists.map(<[Tensor]>::len);
    let first = lengths.first().copied().unwrap_or(0);
    match c_int::try_from(first) {
        Ok(count) if lengths == [first; N] => Ok((lists.map(pointers), count)),
        _ => Err(Error::internal(format!(
            "lists of {lengths:?} tensors for libtorch; expected equal lengths"
        ))),
    }
}

pub(super) fn conv_block(
    x: &Tensor,
    layers: &[RawLayer],
    mode: Mode,
    recompute: bool,
) -> Result<Tensor> {
    let (mut result, mut error) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: all tensors are borrowed for the call; on success we own the new result tensor.
    unsafe {
        let status = ctseg_conv_block(
            x.as_ptr(),
            layers.as_ptr(),
            layers.len() as c_int,
            mode as c_int,
            c_int::from(recompute),
            &raw mut result,
            &raw mut error,
        );
        checked(status, error)?;
        Ok(Tensor::from_ptr(result))
    }
}

/// `shares[0]` · BCE + `shares[1]` · soft Dice, and the gradient with respect to the logits times `scale`; `fused`
/// uses our own kernels if available (CPU). The loss is that of the batch that the processes of `group` share.
pub(super) fn bce_dice(
    logits: &Tensor,
    targets: &Tensor,
    shares: [f64; 2],
    scale: f64,
    fused: bool,
    group: &ProcessGroup,
) -> Result<(f64, Tensor)> {
    let (mut loss, mut gradient) = (0.0, std::ptr::null_mut());
    let mut error = std::ptr::null_mut();
    let mut reduction = ReduceContext {
        group,
        fault: Ok(()),
    };
    let all_reduce: AllReduce = all_reduce;
    // SAFETY: the tensors outlive the call; on success we own the new gradient tensor.
    unsafe {
        let status = ctseg_bce_dice(
            logits.as_ptr(),
            targets.as_ptr(),
            shares[0],
            shares[1],
            scale,
            c_int::from(fused),
            (!group.is_single()).then_some(all_reduce),
            (&raw mut reduction).cast(),
            &raw mut loss,
            &raw mut gradient,
            &raw mut error,
        );
        checked(status, error)?;
        let gradient = Tensor::from_ptr(gradient);
        reduction.fault.map(|()| (loss, gradient))
    }
}

struct ReduceContext<'a> {
    group: &'a ProcessGroup,
    fault: Result<()>,
}

/// Runs `work` with batch normalisation synchronised over `group`.
pub(super) fn with_sync_norms<T>(
    group: &ProcessGroup,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let mut reduction = ReduceContext {
        group,
        fault: Ok(()),
    };
    // SAFETY: the context outlives `SyncNormsGuard`, which unregisters it, also if `work` panics.
    unsafe { ctseg_share_norms(Some(all_reduce), (&raw mut reduction).cast()) };
    let guard = SyncNormsGuard;
    let done = work();
    drop(guard);
    reduction.fault.and(done)
}

/// Ends synchronised batch normalisation on drop.
struct SyncNormsGuard;

impl Drop for SyncNormsGuard {
    fn drop(&mut self) {
        // SAFETY: unregisters the context.
        unsafe { ctseg_share_norms(None, std::ptr::null_mut()) };
    }
}

/// See [`AllReduce`].
///
/// # Safety
/// `sums` must hold `count` values, and `context` must be a [`ReduceContext`].
unsafe extern "C" fn all_reduce(sums: *mut c_double, count: c_longlong, context: *mut c_void) {
    // SAFETY: guaranteed by the caller; both are borrowed only for this call.
    let (sums, reduction) = unsafe {
        let count = usize::try_from(count).unwrap_or(0);
        let sums = std::slice::from_raw_parts_mut(sums, count);
        (sums, &mut *context.cast::<ReduceContext>())
    };
    // A panic must not unwind into C++.
    let added = catch_panic(|| reduction.group.all_reduce_f64(sums));
    if reduction.fault.is_ok() {
        reduction.fault = added;
    }
}

/// Backpropagates all `tensors` in one pass, each with a gradient of the same shape, into the parameters.
pub(super) fn backward(tensors: &[Tensor], gradients: &[Tensor]) -> Result<()> {
    let ([roots, along], count) = equal_lists([tensors, gradients])?;
    let mut error = std::ptr::null_mut();
    // SAFETY: the tensors outlive the call, and the lists have equal lengths.
    let status = unsafe { ctseg_backward(roots.as_ptr(), along.as_ptr(), count, &raw mut error) };
    checked(status, error)
}

/// Copies `tensor` to page-locked memory, for asynchronous transfer to a GPU.
pub(super) fn pinned(tensor: &Tensor) -> Result<Tensor> {
    let (mut result, mut error) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the tensor outlives the call; on success we own the new result tensor.
    unsafe {
        let status = ctseg_pinned(tensor.as_ptr(), &raw mut result, &raw mut error);
        checked(status, error)?;
        Ok(Tensor::from_ptr(result))
    }
}

/// Whether cuDNN supports bf16 on this GPU (Ampere or later).
pub(super) fn cuda_has_bf16() -> bool {
    // SAFETY: queries a property; the shim catches exceptions.
    unsafe { ctseg_cuda_has_bf16() != 0 }
}

/// Whether libtorch's CUDA part is loaded and registered.
pub fn cuda_is_loaded() -> bool {
    // SAFETY: queries a property; the shim catches exceptions.
    unsafe { ctseg_knows_cuda() != 0 }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::{Device, Kind};

    use super::*;
    use crate::distributed::process_group::Collective;

    /// Counts its all-reduce calls.
    struct Counting(AtomicUsize);

    impl Collective for Counting {
        fn all_reduce_f32(&self, _values: &mut [f32]) -> Result<()> {
            Ok(())
        }

        fn all_reduce_f64(&self, _values: &mut [f64]) -> Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn broadcast(&self, _bytes: &mut [u8]) -> Result<()> {
            Ok(())
        }

        fn shutdown(&self) -> Result<()> {
            Ok(())
        }
    }

    fn ones(shape: &[i64]) -> Tensor {
        Tensor::ones(shape, (Kind::Float, Device::Cpu))
    }

    /// A convolution from one channel to four, and a batch normalisation with `values`.
    fn computed(mode: Mode, dimensions: c_int, values: &Tensor) -> Result<Tensor> {
        let (x, weight) = (ones(&[2, 1, 3, 4]), ones(&[4, 1, 1, 1]));
        let layer = RawLayer {
            weight: weight.as_ptr(),
            bias: std::ptr::null(),
            gamma: values.as_ptr(),
            beta: values.as_ptr(),
            mean: values.as_ptr(),
            variance: values.as_ptr(),
            norm: 1,
            groups: 0,
            dimensions,
            stride: [1; 3],
            padding: [0; 3],
            momentum: 0.1,
            epsilon: 1e-5,
            slope: 1.0,
        };
        conv_block(&x, &[layer], mode, false)
    }

    #[test]
    fn norms_are_shared_until_the_work_ends_or_panics() {
        let counting = Arc::new(Counting(AtomicUsize::new(0)));
        let group = ProcessGroup::new((0, 2), counting.clone(), |_| {}).unwrap();
        let sums = || counting.0.load(Ordering::Relaxed);
        let before = sums();
        let batch_norm = || computed(Mode::BatchStatistics, 2, &ones(&[4]));
        drop(with_sync_norms(&group, batch_norm).unwrap());
        assert!(sums() > before);
        let panics = || with_sync_norms::<()>(&group, || panic!("out of memory"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        let shared = sums();
        drop(batch_norm().unwrap());
        assert_eq!(sums(), shared, "the norms are still shared");
        group.mark_finished();
        group.shutdown().unwrap();
    }

    #[test]
    fn lists_of_different_lengths_are_refused() {
        let two = [ones(&[1]), ones(&[1])];
        let refused = [
            backward(&two, &two[..1]).unwrap_err(),
            equal_lists([&two[..1], &two, &two]).unwrap_err(),
        ];
        for error in refused {
            assert!(error.to_string().contains("equal lengths"), "{error}");
        }
        assert_eq!(equal_lists([&two, &two]).unwrap().1, 2);
    }

    #[test]
    fn a_layer_of_the_wrong_size_is_refused() {
        let refused = |dimensions, values: &Tensor| {
            let result = computed(Mode::Inference, dimensions, values);
            result.unwrap_err().to_string()
        };
        // A single value would be read past its end for the other channels.
        let short = refused(2, &ones(&[1]));
        assert!(
            short.contains("4 channels") && short.contains("found 1"),
            "{short}"
        );
        let wide = refused(4, &ones(&[4]));
        assert!(wide.contains("4 dimensions"), "{wide}");
        drop(computed(Mode::Inference, 2, &ones(&[4])).unwrap());
    }
}
