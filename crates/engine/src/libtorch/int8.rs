//! Post-training int8 inference on the CPU: convolutions of slices with oneDNN's integer kernels, everything else as
//! in `ops`. The input ranges of convolutions are recorded beforehand on some volumes.

use std::any::Any;
use std::ffi::{c_char, c_double, c_int};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tch::Tensor;
use torch_sys::C_tensor;

use super::ffi::{Mode, RawLayer, checked};
use super::ops::{LayerTensors, SharedTensor, TorchOps};
use crate::blocks::{Activation, Conv, ConvNormAct, Ops, UpConv};
use crate::quantisation::InputRanges;
use ctseg_base::{Error, Result};

/// Convolutions with fewer input channels are as fast in bf16, and the image itself keeps its precision.
const FEWEST_CHANNELS: i64 = 16;

/// See `CtsegInt8` in `shim/int8.h`.
#[repr(C)]
struct RawInt8 {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn ctseg_range(
        x: *const C_tensor,
        low: *mut c_double,
        high: *mut c_double,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_int8_layer(
        layer: *const RawLayer,
        shape: *const i64,
        axes: c_int,
        low: c_double,
        high: c_double,
        result: *mut *mut RawInt8,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_int8_free(layer: *mut RawInt8);
    fn ctseg_int8_block(
        x: *const C_tensor,
        layers: *const RawLayer,
        int8: *const *const RawInt8,
        count: c_int,
        result: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
}

/// A layer's weights in 8-bit integers.
struct Packed(*mut RawInt8);

// SAFETY: read-only after creation; reference counts of its tensors are atomic.
unsafe impl Send for Packed {}
unsafe impl Sync for Packed {}

impl Drop for Packed {
    fn drop(&mut self) {
        // SAFETY: created by `ctseg_int8_layer`, and freed only here.
        unsafe { ctseg_int8_free(self.0) }
    }
}

impl Packed {
    /// For inputs of `shape` with values within `range`.
    fn new(shape: &[i64], layer: &RawLayer, range: [f32; 2]) -> Result<Self> {
        let (mut result, mut error) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the tensors outlive the call; on success we own the result.
        unsafe {
            let status = ctseg_int8_layer(
                layer,
                shape.as_ptr(),
                shape.len() as c_int,
                f64::from(range[0]),
                f64::from(range[1]),
                &raw mut result,
                &raw mut error,
            );
            checked(status, error)?;
        }
        Ok(Self(result))
    }
}

/// A network's int8 data besides its weights.
pub struct Quantised {
    ranges: InputRanges,
    /// Created when a layer is first used; `None` for layers that are not quantised.
    layers: Vec<OnceLock<Option<Packed>>>,
}

impl Quantised {
    /// In the form that [`Convolutions`](crate::quantisation::Convolutions) holds.
    pub fn boxed(ranges: InputRanges) -> Box<dyn Any + Send + Sync> {
        let layers = ranges.0.iter().map(|_| OnceLock::new()).collect();
        Box::new(Self { ranges, layers })
    }

    /// The value made by [`Quantised::boxed`].
    pub fn of(boxed: &(dyn Any + Send + Sync)) -> Result<&Self> {
        let other = || Error::internal("another engine's 8-bit integers");
        boxed.downcast_ref().ok_or_else(other)
    }

    /// Layer `index` of the network, for inputs of `shape` (batch, channel, space…).
    fn layer(&self, index: usize, shape: &[i64], layer: &RawLayer) -> Result<*const RawInt8> {
        let (Some(cell), Some(range)) = (self.layers.get(index), self.ranges.0.get(index)) else {
            return Err(Error::invalid(format!(
                "the model has int8 input ranges for only {} convolutions, fewer than the network; run 'ctseg quantize' again",
                self.layers.len()
            )));
        };
        if cell.get().is_none() {
            let packs = shape[1] >= FEWEST_CHANNELS;
            let packed = packs.then(|| Packed::new(shape, layer, *range));
            let packed = packed.transpose()?;
            // Another thread may have been faster; either result is fine.
            let _ = cell.set(packed);
        }
        let packed = cell.get().and_then(Option::as_ref);
        Ok(packed.map_or(std::ptr::null(), |packed| packed.0.cast_const()))
    }
}

/// What a pass does with convolutions.
enum Pass<'a> {
    Record(&'a Mutex<InputRanges>),
    Use(&'a Quantised),
}

/// One pass through one network.
pub(super) struct Int8Ops<'a> {
    pass: Pass<'a>,
    /// Index of the next convolution.
    next: AtomicUsize,
    plain: TorchOps,
}

impl<'a> Int8Ops<'a> {
    /// Computes like [`TorchOps`] and extends `ranges` by the inputs of convolutions.
    pub fn recording(ranges: &'a Mutex<InputRanges>) -> Self {
        Self::new(Pass::Record(ranges))
    }

    /// Computes in 8-bit integers.
    pub fn using(quantised: &'a Quantised) -> Self {
        Self::new(Pass::Use(quantised))
    }

    fn new(pass: Pass<'a>) -> Self {
        Self {
            pass,
            next: AtomicUsize::new(0),
            plain: TorchOps {
                mode: Mode::Inference,
                recompute: false,
            },
        }
    }

    fn recorded<const R: usize>(
        &self,
        ranges: &Mutex<InputRanges>,
        mut x: SharedTensor,
        layers: &[ConvNormAct<R>],
    ) -> Result<SharedTensor> {
        for layer in layers {
            let range = range_of(&x.0)?;
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let mut ranges = ranges.lock().unwrap_or_else(PoisonError::into_inner);
            match ranges.0.get_mut(index) {
                Some([low, high]) => {
                    (*low, *high) = (low.min(range[0]), high.max(range[1]));
                }
                None => ranges.0.push(range),
            }
            drop(ranges);
            x = self.plain.block(x, std::slice::from_ref(layer))?;
        }
        Ok(x)
    }

    fn quantised_block<const R: usize>(
        &self,
        quantised: &Quantised,
        x: &SharedTensor,
        layers: &[ConvNormAct<R>],
    ) -> Result<SharedTensor> {
        let tensors: Vec<LayerTensors> =
            layers.iter().map(LayerTensors::of).collect::<Result<_>>()?;
        let mut shape = x.0.size();
        let mut raw = Vec::with_capacity(layers.len());
        let mut int8 = Vec::with_capacity(layers.len());
        for (layer, tensors) in layers.iter().zip(&tensors) {
            let conv = &layer.conv;
            let one = tensors.raw(&conv.stride, &conv.padding, layer.slope())?;
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            int8.push(quantised.layer(index, &shape, &one)?);
            raw.push(one);
            shape[1] = tensors.channels_out();
            for (side, stride) in shape[2..].iter_mut().zip(&conv.stride) {
                *side = (*side + *stride as i64 - 1) / *stride as i64;
            }
        }
        let (mut result, mut error) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: all tensors are borrowed for the call, and the lists have equal lengths; on success we own the new
        // result tensor.
        unsafe {
            let status = ctseg_int8_block(
                x.0.as_ptr(),
                raw.as_ptr(),
                int8.as_ptr(),
                raw.len() as c_int,
                &raw mut result,
                &raw mut error,
            );
            checked(status, error)?;
            Ok(SharedTensor(Tensor::from_ptr(result)))
        }
    }
}

impl<const R: usize> Ops<R> for Int8Ops<'_> {
    type Tensor = SharedTensor;

    fn block(&self, x: SharedTensor, layers: &[ConvNormAct<R>]) -> Result<SharedTensor> {
        match &self.pass {
            Pass::Record(ranges) => self.recorded(ranges, x, layers),
            // oneDNN's integer convolutions of volumes took a third longer than bf16.
            Pass::Use(_) if R > 4 => self.plain.block(x, layers),
            Pass::Use(quantised) => self.quantised_block(quantised, &x, layers),
        }
    }

    fn conv(&self, x: SharedTensor, conv: &Conv<R>) -> Result<SharedTensor> {
        self.plain.conv(x, conv)
    }

    fn max_pool(&self, x: SharedTensor, factors: &[usize]) -> Result<SharedTensor> {
        Ops::<R>::max_pool(&self.plain, x, factors)
    }

    fn mean_pool(&self, x: SharedTensor, factors: &[usize]) -> Result<SharedTensor> {
        Ops::<R>::mean_pool(&self.plain, x, factors)
    }

    fn add(
        &self,
        a: SharedTensor,
        b: SharedTensor,
        activation: Activation,
    ) -> Result<SharedTensor> {
        Ops::<R>::add(&self.plain, a, b, activation)
    }

    fn sigmoid(&self, x: SharedTensor) -> Result<SharedTensor> {
        Ops::<R>::sigmoid(&self.plain, x)
    }

    fn multiply(&self, x: SharedTensor, map: SharedTensor) -> Result<SharedTensor> {
        Ops::<R>::multiply(&self.plain, x, map)
    }

    fn up(&self, x: SharedTensor, up: &UpConv<R>) -> Result<SharedTensor> {
        self.plain.up(x, up)
    }

    fn join(&self, skip: SharedTensor, x: SharedTensor) -> Result<SharedTensor> {
        Ops::<R>::join(&self.plain, skip, x)
    }

    fn dropout(&self, x: SharedTensor, probability: f64) -> Result<SharedTensor> {
        Ops::<R>::dropout(&self.plain, x, probability)
    }
}

fn range_of(x: &Tensor) -> Result<[f32; 2]> {
    let (mut low, mut high, mut error) = (0.0, 0.0, std::ptr::null_mut());
    // SAFETY: the tensor outlives the call; results are written to local variables.
    let status = unsafe { ctseg_range(x.as_ptr(), &raw mut low, &raw mut high, &raw mut error) };
    checked(status, error)?;
    Ok([low as f32, high as f32])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use crate::blocks::{Activation, NormKind};
    use crate::device::{Compute, DeviceChoice};
    use crate::inference::Inference;
    use crate::networks::{Network, NetworkConfig, UnetConfig};
    use crate::precision::{Precision, PrecisionChoice};

    /// Structured noise, like an image.
    fn image(shape: [usize; 5]) -> Vec<f32> {
        let [.., y, x] = shape;
        (0..shape.iter().product::<usize>())
            .map(|i| {
                let (row, column) = ((i / x % y) as f32, (i % x) as f32);
                let noise = (i.wrapping_mul(2_654_435_761) >> 9) % 997;
                (row / 7.0).sin() + (column / 5.0).cos() + noise as f32 / 997.0
            })
            .collect()
    }

    fn network(config: &NetworkConfig, device: &Device) -> Network {
        device.seed(11);
        config.init(1, 3, device).unwrap()
    }

    /// Root mean square of the difference, relative to that of the expected values.
    fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
        let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
            values.map(|v| f64::from(v) * f64::from(v)).sum()
        };
        let difference = square(&mut found.iter().zip(expected).map(|(a, b)| a - b));
        (difference / square(&mut expected.iter().copied())).sqrt()
    }

    #[test]
    fn integers_stay_close_to_f32() {
        let open = |precision| {
            let fixed = PrecisionChoice::Fixed(precision);
            Compute::open(DeviceChoice::LibTorchCpu, fixed, 2).unwrap()
        };
        let (plain, int8) = (open(Precision::F32), open(Precision::Int8));
        for (norm, activation) in [
            (NormKind::Batch, Activation::Relu),
            (NormKind::Batch, Activation::LeakyRelu),
            (NormKind::Instance, Activation::LeakyRelu),
        ] {
            let config = NetworkConfig::Unet2d(UnetConfig {
                widths: vec![16, 32, 48],
                norm: Some(norm),
                activation: Some(activation),
                ..UnetConfig::default()
            });
            let shape = [2, 1, 1, 36, 52];
            let input = image(shape);
            let of = |compute: &Compute| {
                Inference::new(vec![network(&config, &compute.device)], compute).unwrap()
            };
            let (expected, _) = of(&plain).logits(&input, shape, None).unwrap();
            let recording = of(&int8).recording().unwrap();
            let (recorded, _) = recording.logits(&input, shape, None).unwrap();
            // bf16 between the layers if the CPU supports it.
            assert!(
                relative_error(&recorded, &expected) < 0.02,
                "{norm:?} {activation:?}"
            );
            let ranges = recording.recorded();
            // Two convolutions on each of three encoder and two decoder levels.
            assert_eq!(ranges[0].0.len(), 10);
            assert!(ranges[0].0[0][0] < -1.0 && ranges[0].0[0][1] > 2.0);
            let integers = of(&int8).with_int8(ranges.clone()).unwrap();
            let (found, out_shape) = integers.logits(&input, shape, None).unwrap();
            assert_eq!(out_shape, [2, 3, 1, 36, 52]);
            let error = relative_error(&found, &expected);
            assert!(error < 0.06, "{norm:?} {activation:?}: {error}");
            assert_ne!(found, recorded, "the result is not int8");
            // Weights were packed for the first shape; other shapes must work too.
            let wide = [1, 1, 1, 44, 36];
            let input = image(wide);
            let (found, _) = integers.logits(&input, wide, None).unwrap();
            let (expected, _) = of(&plain).logits(&input, wide, None).unwrap();
            assert!(
                relative_error(&found, &expected) < 0.08,
                "{norm:?} {activation:?}"
            );

            let mut short = ranges;
            short[0].0.truncate(4);
            let integers = of(&int8).with_int8(short).unwrap();
            let error = integers.logits(&input, wide, None).unwrap_err().to_string();
            assert!(error.contains("ctseg quantize"), "{error}");
        }
    }

    #[test]
    fn a_network_without_ranges_is_refused() {
        let fixed = PrecisionChoice::Fixed(Precision::Int8);
        let compute = Compute::open(DeviceChoice::LibTorchCpu, fixed, 2).unwrap();
        let config = NetworkConfig::Unet2d(UnetConfig {
            widths: vec![4, 8],
            ..UnetConfig::default()
        });
        let inference = Inference::new(vec![network(&config, &compute.device)], &compute).unwrap();
        let error = inference.with_int8(vec![Default::default()]).err().unwrap();
        assert!(error.to_string().contains("ctseg quantize"), "{error}");
    }
}
