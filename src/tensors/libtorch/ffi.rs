//! The C++ part of the engine (`shim/api.h`), made safe.

use std::ffi::{CStr, c_char, c_double, c_int, c_longlong, c_ulonglong, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::{Error, Result};
use crate::team::Team;

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
    fn ctseg_gradient_norm(
        parameters: *const *const C_tensor,
        count: c_int,
        norm: *mut c_double,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_adam(
        parameters: *const *const C_tensor,
        first: *const *const C_tensor,
        second: *const *const C_tensor,
        count: c_int,
        divide_by: c_double,
        step: c_double,
        rate: c_double,
        beta1: c_double,
        beta2: c_double,
        epsilon: c_double,
        weight_decay: c_double,
        decoupled: c_int,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_sgd(
        parameters: *const *const C_tensor,
        velocity: *const *const C_tensor,
        count: c_int,
        divide_by: c_double,
        first_step: c_int,
        rate: c_double,
        momentum: c_double,
        weight_decay: c_double,
        nesterov: c_int,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_rmsprop(
        parameters: *const *const C_tensor,
        square: *const *const C_tensor,
        count: c_int,
        divide_by: c_double,
        rate: c_double,
        alpha: c_double,
        epsilon: c_double,
        weight_decay: c_double,
        error: *mut *mut c_char,
    ) -> c_int;
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
    fn ctseg_pinned(
        tensor: *const C_tensor,
        result: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_cuda_has_bf16() -> c_int;
    fn ctseg_knows_cuda() -> c_int;
    fn ctseg_release_free();
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

fn pointers(tensors: &[Tensor]) -> Vec<*const C_tensor> {
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

/// Euclidean norm of the gradients of all `parameters`.
pub(super) fn gradient_norm(parameters: &[Tensor]) -> Result<f64> {
    let all = pointers(parameters);
    let (mut norm, mut error) = (0.0, std::ptr::null_mut());
    // SAFETY: the tensors outlive the call.
    let status = unsafe {
        ctseg_gradient_norm(
            all.as_ptr(),
            all.len() as c_int,
            &raw mut norm,
            &raw mut error,
        )
    };
    checked(status, error)?;
    Ok(norm)
}

/// Numbers of one step of Adam (`decoupled` = AdamW).
pub(super) struct AdamStep {
    pub divide_by: f64,
    pub step: f64,
    pub rate: f64,
    pub betas: [f64; 2],
    pub epsilon: f64,
    pub weight_decay: f64,
    pub decoupled: bool,
}

pub(super) fn adam(
    parameters: &[Tensor],
    first: &[Tensor],
    second: &[Tensor],
    step: &AdamStep,
) -> Result<()> {
    debug_assert!(parameters.len() == first.len() && first.len() == second.len());
    let (all, m, v) = (pointers(parameters), pointers(first), pointers(second));
    let mut error = std::ptr::null_mut();
    // SAFETY: the tensors outlive the call, and the three lists are equally long.
    let status = unsafe {
        ctseg_adam(
            all.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            all.len() as c_int,
            step.divide_by,
            step.step,
            step.rate,
            step.betas[0],
            step.betas[1],
            step.epsilon,
            step.weight_decay,
            c_int::from(step.decoupled),
            &raw mut error,
        )
    };
    checked(status, error)
}

/// Numbers of one step of SGD.
pub(super) struct SgdStep {
    pub divide_by: f64,
    pub first_step: bool,
    pub rate: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
}

pub(super) fn sgd(parameters: &[Tensor], velocity: &[Tensor], step: &SgdStep) -> Result<()> {
    debug_assert!(parameters.len() == velocity.len());
    let (all, buffers) = (pointers(parameters), pointers(velocity));
    let mut error = std::ptr::null_mut();
    // SAFETY: as above.
    let status = unsafe {
        ctseg_sgd(
            all.as_ptr(),
            buffers.as_ptr(),
            all.len() as c_int,
            step.divide_by,
            c_int::from(step.first_step),
            step.rate,
            step.momentum,
            step.weight_decay,
            c_int::from(step.nesterov),
            &raw mut error,
        )
    };
    checked(status, error)
}

/// Numbers of one step of RMSProp.
pub(super) struct RmsPropStep {
    pub divide_by: f64,
    pub rate: f64,
    pub alpha: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

pub(super) fn rmsprop(parameters: &[Tensor], square: &[Tensor], step: &RmsPropStep) -> Result<()> {
    debug_assert!(parameters.len() == square.len());
    let (all, squares) = (pointers(parameters), pointers(square));
    let mut error = std::ptr::null_mut();
    // SAFETY: as above.
    let status = unsafe {
        ctseg_rmsprop(
            all.as_ptr(),
            squares.as_ptr(),
            all.len() as c_int,
            step.divide_by,
            step.rate,
            step.alpha,
            step.epsilon,
            step.weight_decay,
            &raw mut error,
        )
    };
    checked(status, error)
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

/// From here on CPU tensors hold at most one part in `share` more than was ever in use at once.
pub(super) fn spare_memory(share: u64) {
    // SAFETY: sets a number under a lock.
    unsafe { ctseg_spare_memory(share.max(1)) }
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

/// Gives CUDA memory that no tensor holds back to the driver.
pub(super) fn empty_cuda_cache() -> Result<()> {
    let mut error = std::ptr::null_mut();
    // SAFETY: no arguments but the place for an error.
    let status = unsafe { ctseg_cuda_empty_cache(&raw mut error) };
    checked(status, error)
}

/// Most bytes that tensors held on a CUDA device since the last reset.
pub fn cuda_peak(device: usize, reset: bool) -> Result<u64> {
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

/// Gives CPU memory that is kept for later tensors back to the system.
pub(super) fn release_cpu_memory() {
    // SAFETY: unmaps blocks that no tensor holds, under a lock.
    unsafe { ctseg_release_free() }
}
