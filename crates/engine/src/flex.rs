//! Burn's pure-Rust engine on the CPU, in f32.

use burn::module::Module;
use burn::tensor::module::{conv2d, conv3d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};

use crate::attention_maps::Map;
use crate::device::{Compute, DeviceChoice};
use crate::engine::Engine;
use crate::host_tensor::Logits;
use crate::learner::burn_learner::BurnLearner;
use crate::learner::{Learner, LearnerSetup};
use crate::networks::{Extras, Network};
use crate::precision::Precision;
use crate::quantisation::ConvolutionsFrom;
use crate::weights::NamedTensors;
use ctseg_base::{Error, Result};

/// Burn's flex engine.
pub(super) struct Flex;

impl Engine for Flex {
    fn names(&self) -> &'static [&'static str] {
        &["flex"]
    }

    fn has(&self, choice: DeviceChoice) -> bool {
        choice == DeviceChoice::Flex
    }

    fn cpu(&self) -> DeviceChoice {
        DeviceChoice::Flex
    }

    fn device(&self, _choice: DeviceChoice) -> Device {
        Device::flex()
    }

    fn learner(
        &self,
        network: Network,
        setup: LearnerSetup,
        compute: &Compute,
        state: &NamedTensors,
        steps: u64,
    ) -> Result<Box<dyn Learner>> {
        let learner = BurnLearner::new(network, setup, &compute.device, state, steps)?;
        Ok(Box::new(learner))
    }

    fn prepare_for_inference(&self, network: Network, _precision: Precision) -> Result<Network> {
        Ok(network.valid().folded())
    }

    fn mean_logits(
        &self,
        networks: &[Network],
        input: &[f32],
        shape: [usize; 5],
        _convolutions: ConvolutionsFrom,
        compute: &Compute,
        wanted: Extras,
    ) -> Result<Logits> {
        let data = TensorData::new(input.to_vec(), shape);
        let tensor = Tensor::<5>::from_data(data, &compute.device);
        let mut sum: Option<Tensor<5>> = None;
        for network in networks {
            let mut outputs = network.outputs(tensor.clone(), wanted)?;
            let logits = outputs.logits.swap_remove(0);
            sum = Some(match sum {
                Some(sum) => sum + logits,
                None => logits,
            });
        }
        let sum = sum.ok_or_else(|| Error::internal("a stage without networks"))?;
        let mean = sum / networks.len() as f64;
        let shape = mean.dims();
        let values = mean
            .into_data()
            .try_into_vec::<f32>()
            .map_err(|error| Error::invalid(format!("cannot read the logits back: {error:?}")))?;
        Ok((values.into(), shape))
    }

    fn attention_maps(
        &self,
        network: &Network,
        input: &[f32],
        shape: [usize; 5],
        compute: &Compute,
    ) -> Result<Vec<Map>> {
        let data = TensorData::new(input.to_vec(), shape);
        let tensor = Tensor::<5>::from_data(data, &compute.device);
        let wanted = Extras::attention();
        let maps = network.outputs(tensor, wanted)?.maps.into_iter();
        maps.map(|map| {
            let shape = map.dims();
            let values = map.into_data().try_into_vec::<f32>();
            let values = values.map_err(|error| {
                Error::invalid(format!("cannot read an attention map back: {error:?}"))
            })?;
            Ok((values, shape))
        })
        .collect()
    }

    fn values(&self, tensor: Tensor<1>) -> Result<Vec<f32>> {
        let values = tensor.into_data().convert::<f32>().try_into_vec::<f32>();
        values.map_err(|error| Error::invalid(format!("cannot read weights back: {error:?}")))
    }

    fn ones_convolved(
        &self,
        compute: &Compute,
        dimensions: usize,
        side: usize,
    ) -> Result<Vec<f32>> {
        let device = &compute.device;
        let values = if dimensions == 2 {
            let image = Tensor::<4>::ones([1, 1, side, side], device);
            let kernel = Tensor::<4>::ones([1, 1, 3, 3], device);
            let options = ConvOptions::new([1; 2], [1; 2], [1; 2], 1);
            conv2d(image, kernel, None, options).into_data()
        } else {
            let volume = Tensor::<5>::ones([1, 1, side, side, side], device);
            let kernel = Tensor::<5>::ones([1, 1, 3, 3, 3], device);
            let options = ConvOptions::new([1; 3], [1; 3], [1; 3], 1);
            conv3d(volume, kernel, None, options).into_data()
        };
        values
            .try_to_vec()
            .map_err(|error| Error::invalid(format!("{error:?}")))
    }
}
