//! Inference without an autograd graph.

use tch::{Kind, Tensor};

use super::device::{device_of, kind_of};
use super::ffi::Mode;
use super::int8::{Int8Ops, Quantised};
use super::module::outputs;
use super::ops::{TorchOps, torch_error};
use super::transfer::{to_device, to_host, to_values};
use crate::attention_maps::Map;
use crate::device::Compute;
use crate::host_tensor::Logits;
use crate::networks::{Extras, Network};
use crate::quantisation::{Convolutions, ConvolutionsFrom};
use ctseg_base::{Error, Result};

/// See [`crate::engine::Engine::mean_logits`].
pub(super) fn mean_logits(
    networks: &[Network],
    input: &[f32],
    shape: [usize; 5],
    convolutions: ConvolutionsFrom,
    compute: &Compute,
    wanted: Extras,
) -> Result<Logits> {
    let _no_grad = tch::no_grad_guard();
    // Volumes differ in size, and cuDNN would search for an algorithm for each new size.
    tch::Cuda::cudnn_set_benchmark(false);
    let input = to_device(input, &shape, device_of(compute.choice))?;
    let ops = TorchOps {
        mode: Mode::Inference,
        recompute: false,
    };
    let kind = kind_of(compute.precision);
    let logits = networks
        .iter()
        .enumerate()
        .map(|(index, network)| {
            let outputs = match convolutions.all {
                Convolutions::Plain => outputs(network, &ops, &input, kind, wanted),
                Convolutions::Recorded(ranges) => {
                    let ops = Int8Ops::recording(&ranges[convolutions.first + index]);
                    outputs(network, &ops, &input, kind, wanted)
                }
                Convolutions::Int8(quantised) => {
                    let ops = Int8Ops::using(Quantised::of(
                        quantised[convolutions.first + index].as_ref(),
                    )?);
                    outputs(network, &ops, &input, kind, wanted)
                }
            };
            Ok(outputs?.logits.swap_remove(0))
        })
        .collect::<Result<Vec<_>>>()?;
    let mean = match logits.as_slice() {
        [] => return Err(Error::internal("a stage without networks")),
        [one] => one.shallow_clone(),
        all => {
            let mut sum = all[0].f_to_kind(Kind::Float).map_err(torch_error)?;
            for logits in &all[1..] {
                sum = sum.f_add(logits).map_err(torch_error)?;
            }
            sum.f_div_scalar(all.len() as f64).map_err(torch_error)?
        }
    };
    let shape: Vec<usize> = mean.size().iter().map(|size| *size as usize).collect();
    let shape = shape
        .try_into()
        .map_err(|_| Error::internal("logits without five axes"))?;
    Ok((to_values(&mean)?, shape))
}

/// See [`crate::engine::Engine::attention_maps`].
pub(super) fn attention_maps(
    network: &Network,
    input: &[f32],
    shape: [usize; 5],
    compute: &Compute,
) -> Result<Vec<Map>> {
    let _no_grad = tch::no_grad_guard();
    let input = to_device(input, &shape, device_of(compute.choice))?;
    let ops = TorchOps {
        mode: Mode::Inference,
        recompute: false,
    };
    let wanted = Extras::attention();
    let outputs = outputs(network, &ops, &input, kind_of(compute.precision), wanted)?;
    let plain = |map: &Tensor| {
        let size: Vec<usize> = map.size().iter().map(|side| *side as usize).collect();
        let shape = size
            .try_into()
            .map_err(|_| Error::internal("a map without five axes"))?;
        Ok((to_host(map)?, shape))
    };
    outputs.maps.iter().map(plain).collect()
}
