//! A convolution in libtorch, for [`crate::self_test`].

use tch::{Device, Kind, Tensor};

use super::device::{device_of, kind_of};
use super::ops::torch_error;
use super::transfer::to_host;
use crate::device::Compute;
use ctseg_base::Result;

/// See [`crate::engine::Engine::ones_convolved`].
pub(super) fn ones_convolved(
    compute: &Compute,
    dimensions: usize,
    side: usize,
) -> Result<Vec<f32>> {
    let _no_grad = tch::no_grad_guard();
    let options: (Kind, Device) = (kind_of(compute.precision), device_of(compute.choice));
    let ones = |side: usize| {
        let mut shape = vec![1i64; 2];
        shape.extend(std::iter::repeat_n(side as i64, dimensions));
        Tensor::f_ones(shape, options).map_err(torch_error)
    };
    let (image, kernel, none) = (ones(side)?, ones(3)?, None::<Tensor>);
    let steps = vec![1i64; dimensions];
    let result = match dimensions {
        2 => image.f_conv2d(&kernel, none, &steps, &steps, &steps, 1),
        _ => image.f_conv3d(&kernel, none, &steps, &steps, &steps, 1),
    };
    to_host(&result.map_err(torch_error)?)
}
