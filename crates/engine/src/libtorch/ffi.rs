//! The C++ part of the engine (`shim/api.h`), made safe.

use std::ffi::{CStr, c_char, c_double, c_int, c_longlong, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::distributed::process_group::Team;
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
    // SAFETY: what the shim holds on to lives until it is taken away again below.
    unsafe { ctseg_share_norms(Some(add_up), (&raw mut sharing).cast()) };
    let done = work();
    // SAFETY: nothing is held on to any more.
    unsafe { ctseg_share_norms(None, std::ptr::null_mut()) };
    sharing.fault.and(done)
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
    let added = sharing.team.sum_f64(sums);
    if sharing.fault.is_ok() {
        sharing.fault = added;
    }
}

/// Follows `tensors` back through their graph at once, with a gradient of the same shape each, into the
/// parameters.
pub(super) fn backward(tensors: &[Tensor], gradients: &[Tensor]) -> Result<()> {
    debug_assert!(tensors.len() == gradients.len());
    let (roots, along) = (pointers(tensors), pointers(gradients));
    let mut error = std::ptr::null_mut();
    // SAFETY: the tensors outlive the call, and the lists are equally long.
    let status = unsafe {
        ctseg_backward(
            roots.as_ptr(),
            along.as_ptr(),
            roots.len() as c_int,
            &raw mut error,
        )
    };
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
