//! Training with Burn's autodiff, on any of its engines.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use super::all_reduce::{all_reduce_gradients, sharing_group};
use super::ema;
use super::ema::BurnEma;
use super::{Learner, LearnerSetup, StepReport};
use crate::batch::Batch;
use crate::distributed::process_group::ProcessGroup;
use crate::freezing::Freeze;
use crate::losses::deep_supervision::{downsampled, loss_weights};
use crate::named_parameters::{NamedMapper, NamedVisitor, map_named, visit_named};
use crate::networks::{Extras, Network};
use crate::optim::{Step, Updated};
use crate::weights::{
    HostTensor, NamedTensors, below_prefix, is_trained, network_tensors, prefixed,
};
use ctseg_base::{Error, Result};

/// See [`Learner`].
pub struct BurnLearner {
    /// With autodiff.
    network: Network,
    setup: LearnerSetup,
    /// With autodiff.
    device: Device,
    steps: u64,
    /// The optimiser's state by parameter name, flattened, one tensor per slot.
    optimiser_state: BTreeMap<String, Vec<Tensor<1>>>,
    average: Option<BurnEma>,
}

impl BurnLearner {
    pub(crate) fn new(
        network: Network,
        setup: LearnerSetup,
        device: &Device,
        state: &NamedTensors,
        steps: u64,
    ) -> Result<Self> {
        let tensor = |host: &HostTensor| {
            let data = TensorData::new(host.values.clone(), [host.values.len()]);
            Tensor::<1>::from_data(data, device)
        };
        let mut optimiser_state: BTreeMap<String, Vec<Tensor<1>>> = BTreeMap::new();
        for slot in setup.optimiser.kind.slots() {
            for (name, host) in below_prefix(slot, state) {
                optimiser_state.entry(name).or_default().push(tensor(&host));
            }
        }
        let average = setup
            .weight_average
            .map(|decay| BurnEma::new(&network, decay, state, device))
            .transpose()?;
        Ok(Self {
            network: map_named(network.train(), &mut Freeze(setup.frozen_levels)),
            setup,
            device: device.clone().autodiff(),
            steps,
            optimiser_state,
            average,
        })
    }

    /// The loss over all scales for which the network gives logits.
    fn loss(&self, input: Tensor<5>, batch: &Batch) -> Result<Tensor<1>> {
        let logits = self.network.outputs(input, Extras::training())?.logits;
        let weights = loss_weights(logits.len());
        let group = sharing_group(&self.setup.group, batch);
        let mut sum: Option<Tensor<1>> = None;
        for (logits, weight) in logits.into_iter().zip(weights) {
            let [_, _, z, y, x] = logits.dims();
            let marked = |values: &[f32]| {
                let scaled = downsampled(values, batch.targets_shape, [z, y, x]);
                let data = TensorData::new(scaled.values.into_owned(), scaled.shape);
                Tensor::<5>::from_data(data, &self.device)
            };
            let distances = batch.distances.as_deref().map(marked);
            let targets = marked(&batch.targets);
            let loss = &self.setup.loss;
            let loss = loss.compute_distributed(logits, targets, distances, group)? * weight;
            sum = Some(sum.map_or_else(|| loss.clone(), |sum| sum + loss.clone()));
        }
        sum.ok_or_else(|| Error::internal("a network without logits"))
    }

    /// Gradients of the whole batch by parameter name.
    fn gradients(
        &self,
        mut gradients: Gradients,
        batch: &Batch,
    ) -> Result<Vec<(String, Tensor<1>)>> {
        let mut collected = Collector {
            source: &mut gradients,
            gradients: Vec::new(),
        };
        visit_named(&self.network, &mut collected);
        let own = collected.gradients;
        if self.setup.group.is_single() {
            return Ok(own);
        }
        let mut values = Vec::new();
        for (_, gradient) in &own {
            values.extend(gradient.clone().into_data().iter::<f32>());
        }
        all_reduce_gradients(&self.setup.group, batch, &mut values)?;
        let mut rest = values.as_slice();
        let whole = own.into_iter().map(|(name, gradient)| {
            let (of_this, others) = rest.split_at(gradient.dims()[0]);
            rest = others;
            let data = TensorData::new(of_this.to_vec(), [of_this.len()]);
            (name, Tensor::from_data(data, &gradient.device()))
        });
        Ok(whole.collect())
    }

    /// Averages running statistics over the processes; each process has those of its own share of the batches.
    fn average_statistics(&mut self) -> Result<()> {
        if self.setup.group.is_single() {
            return Ok(());
        }
        let mut means = AverageStatistics {
            group: &self.setup.group,
            fault: Ok(()),
        };
        self.network = map_named(self.network.clone(), &mut means);
        means.fault
    }

    /// Takes one step and returns the gradient norm before clipping. If the norm is not finite, nothing changes.
    fn apply_gradients(&mut self, gradients: Vec<(String, Tensor<1>)>, rate: f64) -> f64 {
        let square = |(_, gradient): &(String, Tensor<1>)| {
            f64::from(gradient.clone().powi_scalar(2).sum().into_scalar::<f32>())
        };
        let norm = gradients.iter().map(square).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return norm;
        }
        self.steps += 1;
        let mut update = Update {
            gradients: gradients.into_iter().collect(),
            scale: self.setup.optimiser.clip_factor(norm),
            rate,
            learner: self,
        };
        let network = update.learner.network.clone();
        self.network = map_named(network, &mut update);
        if let Some(average) = &mut self.average {
            average.update(&self.network, self.steps);
        }
        norm
    }

    fn averaged(&self) -> Network {
        match &self.average {
            Some(average) => average.network.clone(),
            None => self.network.valid(),
        }
    }
}

impl Learner for BurnLearner {
    fn step(&mut self, batch: &Batch, rate: f64, seed: u64) -> Result<StepReport> {
        self.device.seed(self.setup.group.seed_of_rank(seed));
        let input = Tensor::<5>::from_data(
            TensorData::new(batch.input.clone(), batch.input_shape),
            &self.device,
        );
        let loss = self.loss(input, batch)?;
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let gradients = self.gradients(loss.backward(), batch)?;
        self.average_statistics()?;
        Ok(StepReport {
            loss: value,
            gradient_norm: self.apply_gradients(gradients, rate),
            note: None,
        })
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn network(&self) -> Result<Network> {
        Ok(self.averaged())
    }

    fn weights(&self) -> Result<NamedTensors> {
        network_tensors(&self.network.valid())
    }

    fn averaged_weights(&self) -> Result<NamedTensors> {
        network_tensors(&self.averaged())
    }

    fn state(&self) -> Result<(NamedTensors, u64)> {
        let mut state = NamedTensors::new();
        for (name, slots) in &self.optimiser_state {
            for (prefix, tensor) in self.setup.optimiser.kind.slots().iter().zip(slots) {
                let shape = tensor.dims().to_vec();
                let values = tensor.clone().into_data().try_into_vec::<f32>();
                let values = values.map_err(|error| {
                    Error::invalid(format!("cannot read the optimiser's state: {error:?}"))
                })?;
                let host = HostTensor { shape, values };
                state.extend(prefixed(prefix, NamedTensors::from([(name.clone(), host)])));
            }
        }
        if let Some(average) = &self.average {
            state.extend(ema::state_of(&average.network)?);
        }
        Ok((state, self.steps))
    }
}

/// Extracts the gradients by parameter name from Burn's container.
struct Collector<'a> {
    source: &'a mut Gradients,
    gradients: Vec<(String, Tensor<1>)>,
}

impl NamedVisitor for Collector<'_> {
    fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        if let Some(gradient) = param.val().grad_remove(self.source) {
            let gradient: Tensor<1> = gradient.flatten(0, D - 1);
            self.gradients.push((name, gradient));
        }
    }
}

/// Replaces running statistics by their means over the processes.
struct AverageStatistics<'a> {
    group: &'a ProcessGroup,
    fault: Result<()>,
}

impl NamedMapper for AverageStatistics<'_> {
    fn map<const D: usize>(&mut self, name: String, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if is_trained(&name) {
            return param;
        }
        let (id, own, mapper) = param.consume();
        let (shape, device) = (own.dims(), own.device());
        let mut values: Vec<f32> = own.into_data().iter::<f32>().collect();
        let summed = self.group.all_reduce_f32(&mut values);
        if self.fault.is_ok() {
            self.fault = summed;
        }
        let share = self.group.size() as f32;
        values.iter_mut().for_each(|value| *value /= share);
        let mean = Tensor::from_data(TensorData::new(values, shape), &device);
        Param::from_mapped_value(id, mean, mapper)
    }
}

struct Update<'a> {
    gradients: BTreeMap<String, Tensor<1>>,
    scale: f64,
    rate: f64,
    learner: &'a mut BurnLearner,
}

impl NamedMapper for Update<'_> {
    fn map<const D: usize>(&mut self, name: String, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove(&name) else {
            return param;
        };
        let (id, weight, mapper) = param.consume();
        let weight = weight.inner();
        let shape = weight.dims();
        let weight: Tensor<1> = weight.flatten(0, D - 1);
        let Updated { weight, state } = self.learner.setup.optimiser.updated(
            weight,
            gradient * self.scale,
            self.learner.optimiser_state.remove(&name),
            Step {
                rate: self.rate,
                number: self.learner.steps,
            },
        );
        self.learner.optimiser_state.insert(name, state);
        Param::from_mapped_value(
            id,
            Tensor::from_inner(weight.reshape(shape)).require_grad(),
            mapper,
        )
    }
}
