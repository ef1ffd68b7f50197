//! The C++ part of the engine (`shim/api.h`), made safe.

use std::ffi::{CStr, c_char, c_double, c_int, c_longlong, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::distributed::process_group::Team;
use ctseg_base::cancel::guarded;
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

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Inference = 0,
    /// Statistics of the batch; running ones are left alone.
    Look = 1,
    Training = 2,
}

/// See `CtsegWhole` in `shim/api.h`.
type AddUp = unsafe extern "C" fn(*mut c_double, c_longlong, *mut c_void);

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
        add_up: Option<AddUp>,
        context: *mut c_void,
        loss: *mut c_double,
        gradient: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_share_norms(add_up: Option<AddUp>, context: *mut c_void);
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

/// A status of the shim as a result; the text it left is taken over.
pub(super) fn checked(status: c_int, error: *mut c_char) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    if error.is_null() {
        return Err(Error::invalid("libtorch failed without a word"));
    }
    // SAFETY: the shim hands over a string that it allocated with strdup, and forgets it.
    let text = unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        libc::free(error.cast());
        text
    };
    Err(Error::invalid(format!("libtorch: {}", first_line(&text))))
}

/// libtorch's errors go on with a stack of C++ frames; the first line says what happened.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}

pub(super) fn pointers(tensors: &[Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(Tensor::as_ptr).collect()
}

/// The pointers of lists that the shim walks side by side, and how many there are in each.
///
/// # Errors
/// Lists of different lengths: the shim would read beyond the end of the shorter ones.
pub(super) fn equal_lists<const N: usize>(
    lists: [&[Tensor]; N],
) -> Result<([Vec<*const C_tensor>; N], c_int)> {
    let lengths = lists.map(<[Tensor]>::len);
    let first = lengths.first().copied().unwrap_or(0);
    match c_int::try_from(first) {
        Ok(count) if lengths == [first; N] => Ok((lists.map(pointers), count)),
        _ => Err(Error::invalid(format!(
            "internal: lists of {lengths:?} tensors for libtorch; expected equally many in each"
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
    // SAFETY: all tensors are borrowed for the call; on success the result is a new tensor that is ours.
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

/// `shares[0]` · BCE + `shares[1]` · soft Dice, and the gradient by the logits times `scale`; `fused` = by
/// kernels of our own where there are some (CPU). The loss is that of the batch of which each process of `team` has a share.
pub(super) fn bce_dice(
    logits: &Tensor,
    targets: &Tensor,
    shares: [f64; 2],
    scale: f64,
    fused: bool,
    team: &Team,
) -> Result<(f64, Tensor)> {
    let (mut loss, mut gradient) = (0.0, std::ptr::null_mut());
    let mut error = std::ptr::null_mut();
    let mut sharing = Sharing {
        team,
        fault: Ok(()),
    };
    let add_up: AddUp = add_up;
    // SAFETY: the tensors outlive the call; on success the gradient is a new tensor that is ours.
    unsafe {
        let status = ctseg_bce_dice(
            logits.as_ptr(),
            targets.as_ptr(),
            shares[0],
            shares[1],
            scale,
            c_int::from(fused),
            (!team.is_alone()).then_some(add_up),
            (&raw mut sharing).cast(),
            &raw mut loss,
            &raw mut gradient,
            &raw mut error,
        );
        checked(status, error)?;
        let gradient = Tensor::from_ptr(gradient);
        sharing.fault.map(|()| (loss, gradient))
    }
}

/// What [`add_up`] is called with.
struct Sharing<'a> {
    team: &'a Team,
    fault: Result<()>,
}

/// Runs `work` with batch normalisations that see the batch that `team` shares.
pub(super) fn with_shared_norms<T>(team: &Team, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut sharing = Sharing {
        team,
        fault: Ok(()),
    };
    // SAFETY: what the shim holds on to lives until `Shared` takes it away again, also where `work` panics.
    unsafe { ctseg_share_norms(Some(add_up), (&raw mut sharing).cast()) };
    let shared = Shared;
    let done = work();
    drop(shared);
    sharing.fault.and(done)
}

/// While it lives, the shim's batch normalisations are shared.
struct Shared;

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: nothing is held on to any more.
        unsafe { ctseg_share_norms(None, std::ptr::null_mut()) };
    }
}

/// See [`AddUp`].
///
/// # Safety
/// `sums` are so many, and `context` is a [`Sharing`].
unsafe extern "C" fn add_up(sums: *mut c_double, count: c_longlong, context: *mut c_void) {
    // SAFETY: what the caller promises; both are borrowed for the call alone.
    let (sums, sharing) = unsafe {
        let count = usize::try_from(count).unwrap_or(0);
        let sums = std::slice::from_raw_parts_mut(sums, count);
        (sums, &mut *context.cast::<Sharing>())
    };
    // A panic may not unwind into C++.
    let added = guarded(|| sharing.team.sum_f64(sums));
    if sharing.fault.is_ok() {
        sharing.fault = added;
    }
}

/// Follows `tensors` back through their graph at once, with a gradient of the same shape each, into the
/// parameters.
pub(super) fn backward(tensors: &[Tensor], gradients: &[Tensor]) -> Result<()> {
    let ([roots, along], count) = equal_lists([tensors, gradients])?;
    let mut error = std::ptr::null_mut();
    // SAFETY: the tensors outlive the call, and the lists are equally long.
    let status = unsafe { ctseg_backward(roots.as_ptr(), along.as_ptr(), count, &raw mut error) };
    checked(status, error)
}

/// `tensor` in page-locked memory, from where a GPU copies by itself.
pub(super) fn pinned(tensor: &Tensor) -> Result<Tensor> {
    let (mut result, mut error) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the tensor outlives the call; on success the result is a new tensor that is ours.
    unsafe {
        let status = ctseg_pinned(tensor.as_ptr(), &raw mut result, &raw mut error);
        checked(status, error)?;
        Ok(Tensor::from_ptr(result))
    }
}

/// Whether cuDNN computes in bf16 on this GPU (from the Ampere generation on).
pub(super) fn cuda_has_bf16() -> bool {
    // SAFETY: asks for a property; exceptions are caught there.
    unsafe { ctseg_cuda_has_bf16() != 0 }
}

/// Whether libtorch's CUDA half is loaded, and registered with the rest of it.
pub fn knows_cuda() -> bool {
    // SAFETY: asks for a property; exceptions are caught there.
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

    /// Counts the sums that are asked of it.
    struct Counting(AtomicUsize);

    impl Collective for Counting {
        fn sum_f32(&self, _values: &mut [f32]) -> Result<()> {
            Ok(())
        }

        fn sum_f64(&self, _values: &mut [f64]) -> Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn broadcast(&self, _bytes: &mut [u8]) -> Result<()> {
            Ok(())
        }

        fn end(&self) -> Result<()> {
            Ok(())
        }
    }

    fn ones(shape: &[i64]) -> Tensor {
        Tensor::ones(shape, (Kind::Float, Device::Cpu))
    }

    /// A convolution of one channel into four and a batch normalisation with `values`.
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
        let team = Team::of((0, 2), counting.clone(), |_| {}).unwrap();
        let sums = || counting.0.load(Ordering::Relaxed);
        let before = sums();
        let batch_norm = || computed(Mode::Look, 2, &ones(&[4]));
        with_shared_norms(&team, batch_norm).unwrap();
        assert!(sums() > before);
        let panics = || with_shared_norms::<()>(&team, || panic!("out of memory"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        let shared = sums();
        batch_norm().unwrap();
        assert_eq!(sums(), shared, "the norms are still shared");
        team.part();
        team.end().unwrap();
    }

    #[test]
    fn lists_of_different_lengths_are_refused() {
        let two = [ones(&[1]), ones(&[1])];
        let refused = [
            backward(&two, &two[..1]).unwrap_err(),
            equal_lists([&two[..1], &two, &two]).unwrap_err(),
        ];
        for error in refused {
            assert!(error.to_string().contains("equally many"), "{error}");
        }
        assert_eq!(equal_lists([&two, &two]).unwrap().1, 2);
    }

    #[test]
    fn a_layer_of_the_wrong_size_is_refused() {
        let refused = |dimensions, values: &Tensor| {
            let result = computed(Mode::Inference, dimensions, values);
            result.unwrap_err().to_string()
        };
        // One value would do for its neighbours too, and be read beyond its end.
        let short = refused(2, &ones(&[1]));
        assert!(
            short.contains("4 channels") && short.contains("found 1"),
            "{short}"
        );
        let wide = refused(4, &ones(&[4]));
        assert!(wide.contains("4 dimensions"), "{wide}");
        computed(Mode::Inference, 2, &ones(&[4])).unwrap();
    }
}
