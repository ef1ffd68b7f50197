//! A convolution by libtorch's own call, for [`crate::tensors::self_test`].

use tch::{Device, Kind, Tensor};

use super::ops::failed;
use super::{device_of, kind_of, transfer};
use crate::error::Result;
use crate::tensors::device::Compute;
use crate::tensors::self_test::SIDE;

/// Ones convolved with a kernel of ones, 3 along each axis, with a padding of 1.
pub(in crate::tensors) fn ones_convolved(compute: &Compute, dimensions: usize) -> Result<Vec<f32>> {
    let _no_grad = tch::no_grad_guard();
    let options: (Kind, Device) = (kind_of(compute.precision), device_of(compute.choice));
    let ones = |side: usize| {
        let mut shape = vec![1i64; 2];
        shape.extend(std::iter::repeat_n(side as i64, dimensions));
        Tensor::f_ones(shape, options).map_err(failed)
    };
    let (image, kernel, none) = (ones(SIDE)?, ones(3)?, None::<Tensor>);
    let steps = vec![1i64; dimensions];
    let result = match dimensions {
        2 => image.f_conv2d(&kernel, none, &steps, &steps, &steps, 1),
        _ => image.f_conv3d(&kernel, none, &steps, &steps, &steps, 1),
    };
    transfer::to_host(&result.map_err(failed)?)
}
