//! Training with libtorch: its autograd on Burn's parameters, and its fused optimiser steps, in place.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::all_reduce::{all_reduce_gradients, average_statistics};
use super::device::{device_of, kind_of};
use super::ema::TorchEma;
use super::ffi::{self, Mode};
use super::loss_scale::LossScale;
use super::losses::loss_and_gradient;
use super::memory::empty_cache;
use super::module::{for_inference, for_training, outputs, tensors_of};
use super::ops::{TorchOps, torch_error};
use super::optimiser::{fused_step, gradient_norm, optimiser_state};
use super::transfer::to_device;
use crate::batch::Batch;
use crate::device::Compute;
use crate::freezing::is_frozen;
use crate::learner::all_reduce::sharing_group;
use crate::learner::ema;
use crate::learner::{Learner, LearnerSetup, StepReport};
use crate::losses::deep_supervision::{downsampled, loss_weights};
use crate::networks::{Extras, Network};
use crate::precision::Precision;
use crate::weights::{HostTensor, NamedTensors, network_tensors};
use ctseg_base::{Error, Result};

/// Name of the loss scale in the saved state.
const SCALE: &str = "loss_scale";

/// Name of the increased number of micro-batches in the saved state.
const PARTS: &str = "micro_batches";

/// See [`Learner`].
pub struct TorchLearner {
    network: Network,
    /// The network's parameters by name, sharing its memory.
    parameters: Vec<(String, Tensor)>,
    /// The network's running statistics by name, sharing its memory.
    statistics: Vec<(String, Tensor)>,
    /// The recipe's `micro_batches`; the value in `setup` grows if memory runs out.
    configured_parts: usize,
    /// See [`optimiser_state`].
    optimiser_state: Vec<Vec<Tensor>>,
    average: Option<TorchEma>,
    steps: u64,
    setup: LearnerSetup,
    kind: Kind,
    device: tch::Device,
    scale: LossScale,
}

impl TorchLearner {
    pub(crate) fn new(
        network: Network,
        mut setup: LearnerSetup,
        compute: &Compute,
        state: &NamedTensors,
        steps: u64,
    ) -> Result<Self> {
        let configured_parts = setup.micro_batches;
        let network = for_training(network, setup.frozen_levels)?;
        let (mut parameters, mut statistics) = (Vec::new(), Vec::new());
        for (name, tensor) in tensors_of(&network)? {
            if tensor.requires_grad() {
                parameters.push((name, tensor));
            } else if !is_frozen(&name, setup.frozen_levels) {
                statistics.push((name, tensor));
            }
        }
        let optimiser_state = optimiser_state(setup.optimiser.kind, &parameters, state)?;
        let average = setup
            .weight_average
            .map(|decay| TorchEma::new(&network, decay, state, compute))
            .transpose()?;
        let scale = match compute.precision {
            Precision::F16 => {
                let saved = state.get(SCALE).map(|saved| saved.values.as_slice());
                LossScale::restored(saved)
            }
            _ => LossScale::none(),
        };
        // With several processes, shares are smaller than the batches that did not fit.
        let parts = state.get(PARTS).filter(|_| setup.group.is_single());
        if let Some(parts) = parts.and_then(|saved| saved.values.first()) {
            setup.micro_batches = setup.micro_batches.max(*parts as usize);
        }
        Ok(Self {
            network,
            parameters,
            statistics,
            configured_parts,
            optimiser_state,
            average,
            steps,
            setup,
            kind: kind_of(compute.precision),
            device: device_of(compute.choice),
            scale,
        })
    }

    fn statistics_now(&self) -> Result<Vec<Tensor>> {
        let copies = self.statistics.iter().map(|(_, tensor)| {
            let mut copy = tensor.f_zeros_like()?;
            copy.f_copy_(tensor)?;
            Ok(copy)
        });
        copies
            .collect::<std::result::Result<_, _>>()
            .map_err(torch_error)
    }

    /// [`TorchLearner::attempt`], with synchronised batch normalisation if requested.
    fn attempt_distributed(&mut self, batch: &Batch, seed: u64) -> Result<f64> {
        let group = Arc::clone(&self.setup.group);
        let group = sharing_group(&group, batch);
        match self.setup.sync_norms && !group.is_single() {
            true => ffi::with_sync_norms(group, || self.attempt(batch, seed)),
            false => self.attempt(batch, seed),
        }
    }

    /// Computes the gradients of the batch's loss into the parameters and returns the loss.
    fn attempt(&mut self, batch: &Batch, seed: u64) -> Result<f64> {
        // Training uses fixed shapes, so searching for the fastest algorithm pays off.
        tch::Cuda::cudnn_set_benchmark(true);
        let input = to_device(&batch.input, &batch.input_shape, self.device)?;
        tch::manual_seed(seed as i64);
        if self.setup.micro_batches <= 1 {
            let logits = self.logits(&input, Mode::Training)?;
            let (loss, gradients) = self.loss(&logits, batch)?;
            ffi::backward(&logits, &gradients)?;
            return Ok(loss);
        }
        self.attempt_in_parts(&input, batch, seed)
    }

    /// [`TorchLearner::attempt`] in micro-batches. Losses over a whole batch (such as batch Dice) are not sums over
    /// its parts. Therefore a first pass without gradients computes the loss's gradient with respect to all logits;
    /// then each part is backpropagated with its share of that gradient.
    fn attempt_in_parts(&self, input: &Tensor, batch: &Batch, seed: u64) -> Result<f64> {
        let size = (input.size()[0] as usize).div_ceil(self.setup.micro_batches) as i64;
        let parts = input.f_split(size, 0).map_err(torch_error)?;
        let pass = |index: usize, mode: Mode| {
            tch::manual_seed(seed.wrapping_add(index as u64) as i64);
            self.logits(&parts[index], mode)
        };
        let seen = {
            let _no_grad = tch::no_grad_guard();
            (0..parts.len())
                .map(|index| pass(index, Mode::BatchStatistics))
                .collect::<Result<Vec<_>>>()?
        };
        let whole = |scale: usize| {
            let parts: Vec<&Tensor> = seen.iter().map(|logits| &logits[scale]).collect();
            Tensor::f_cat(&parts, 0).map_err(torch_error)
        };
        let logits = (0..self.network.scales())
            .map(whole)
            .collect::<Result<Vec<_>>>()?;
        drop(seen);
        let (loss, gradients) = self.loss(&logits, batch)?;
        drop(logits);
        let shares = gradients
            .iter()
            .map(|gradient| gradient.f_split(size, 0).map_err(torch_error))
            .collect::<Result<Vec<_>>>()?;
        for index in 0..parts.len() {
            let share = shares.iter().map(|parts| parts[index].shallow_clone());
            ffi::backward(&pass(index, Mode::Training)?, &share.collect::<Vec<_>>())?;
        }
        Ok(loss)
    }

    /// Logits of all scales, finest first.
    fn logits(&self, input: &Tensor, mode: Mode) -> Result<Vec<Tensor>> {
        let ops = TorchOps {
            mode,
            recompute: self.setup.recompute,
        };
        let outputs = outputs(&self.network, &ops, input, self.kind, Extras::training())?;
        let exact = |logits: &Tensor| logits.f_to_kind(Kind::Float).map_err(torch_error);
        outputs.logits.iter().map(exact).collect()
    }

    /// The loss over all scales, and its gradient with respect to the logits of each.
    fn loss(&self, logits: &[Tensor], batch: &Batch) -> Result<(f64, Vec<Tensor>)> {
        let (mut sum, mut gradients) = (0.0, Vec::with_capacity(logits.len()));
        for (logits, weight) in logits.iter().zip(loss_weights(logits.len())) {
            let size = logits.size();
            let sides = [2, 3, 4].map(|axis| size[axis] as usize);
            let marked = |values: &[f32]| {
                let scaled = downsampled(values, batch.targets_shape, sides);
                to_device(&scaled.values, &scaled.shape, self.device)
            };
            let targets = marked(&batch.targets)?;
            let distances = batch.distances.as_deref().map(marked).transpose()?;
            let scale = self.scale.factor * weight;
            let (config, distances) = (&self.setup.loss, distances.as_ref());
            let group = sharing_group(&self.setup.group, batch);
            let (loss, gradient) =
                loss_and_gradient(config, logits, &targets, distances, scale, group)?;
            sum += loss * weight;
            gradients.push(gradient);
        }
        Ok((sum, gradients))
    }

    /// Takes one step with the gradients in the parameters and returns their norm before clipping. If the norm is not
    /// finite, the weights stay unchanged.
    fn apply_gradients(&mut self, rate: f64) -> Result<f64> {
        let parameters: Vec<Tensor> = self
            .parameters
            .iter()
            .map(|(_, parameter)| parameter.shallow_clone())
            .collect();
        let norm = gradient_norm(&parameters)? / self.scale.factor;
        if norm.is_finite() {
            let divide_by = self.scale.factor / self.setup.optimiser.clip_factor(norm);
            fused_step(
                &self.setup.optimiser,
                &self.optimiser_state,
                &parameters,
                self.steps,
                divide_by,
                rate,
            )?;
            self.steps += 1;
            if let Some(average) = &mut self.average {
                average.update(self.steps)?;
            }
        }
        self.scale.update(norm.is_finite());
        Ok(norm)
    }

    fn forget_gradients(&mut self) {
        for (_, parameter) in &mut self.parameters {
            if parameter.grad().defined() {
                parameter.zero_grad();
            }
        }
    }

    fn averaged(&self) -> &Network {
        self.average
            .as_ref()
            .map_or(&self.network, |average| &average.network)
    }
}

impl Learner for TorchLearner {
    /// Splits a batch that does not fit into memory, and all following ones.
    fn step(&mut self, batch: &Batch, rate: f64, seed: u64) -> Result<StepReport> {
        let size = batch.input_shape[0];
        let seed = self.setup.group.seed_of_rank(seed);
        let statistics = self.statistics_now()?;
        let mut note = None;
        loop {
            let error = match self.attempt_distributed(batch, seed) {
                Ok(loss) => {
                    let whole = all_reduce_gradients(&self.setup.group, batch, &self.parameters);
                    let whole = whole
                        .and_then(|()| average_statistics(&self.setup.group, &self.statistics));
                    let gradient_norm = whole.and_then(|()| self.apply_gradients(rate));
                    self.forget_gradients();
                    return Ok(StepReport {
                        loss,
                        gradient_norm: gradient_norm?,
                        note,
                    });
                }
                Err(error) => error,
            };
            self.forget_gradients();
            let is_out_of_memory = matches!(error, Error::OutOfMemory(_));
            if !is_out_of_memory || self.setup.micro_batches >= size {
                return Err(error);
            }
            if !self.setup.group.is_single() {
                // Other processes may be further ahead in this batch.
                return Err(Error::out_of_memory(format!(
                    "this process's {size} patches of the batch do not fit into memory ({error}); set training.micro_batches={}",
                    (self.setup.micro_batches * 2).clamp(2, size)
                )));
            }
            empty_cache()?;
            // The failed attempt may have updated them with part of the batch.
            for ((_, tensor), before) in self.statistics.iter_mut().zip(&statistics) {
                tensor.f_copy_(before).map_err(torch_error)?;
            }
            self.setup.micro_batches = (self.setup.micro_batches * 2).clamp(2, size);
            note = Some(format!(
                "a batch of {size} does not fit into memory; from now on the network processes at most {} at a time, with the same gradient (batch normalisation uses the statistics of each part)",
                size.div_ceil(self.setup.micro_batches)
            ));
        }
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn network(&self) -> Result<Network> {
        for_inference(self.averaged().clone(), self.kind)
    }

    fn weights(&self) -> Result<NamedTensors> {
        let _no_grad = tch::no_grad_guard();
        network_tensors(&self.network)
    }

    fn averaged_weights(&self) -> Result<NamedTensors> {
        let _no_grad = tch::no_grad_guard();
        network_tensors(self.averaged())
    }

    fn state(&self) -> Result<(NamedTensors, u64)> {
        let mut state = NamedTensors::new();
        for (slot, tensors) in self
            .setup
            .optimiser
            .kind
            .slots()
            .iter()
            .zip(&self.optimiser_state)
        {
            for ((name, _), tensor) in self.parameters.iter().zip(tensors) {
                let flat = tensor.f_reshape([-1]).map_err(torch_error)?;
                let values = Vec::<f32>::try_from(&flat).map_err(torch_error)?;
                let host = HostTensor {
                    shape: vec![values.len()],
                    values,
                };
                state.insert(format!("{slot}{name}"), host);
            }
        }
        if let Some(average) = &self.average {
            state.extend(ema::state_of(&average.network)?);
        }
        let more_parts = self.setup.micro_batches > self.configured_parts;
        let extra = [
            (SCALE, self.scale.state()),
            (
                PARTS,
                more_parts.then(|| vec![self.setup.micro_batches as f32]),
            ),
        ];
        for (name, values) in extra {
            if let Some(values) = values {
                let shape = vec![values.len()];
                state.insert(name.to_owned(), HostTensor { shape, values });
            }
        }
        Ok((state, self.steps))
    }
}
