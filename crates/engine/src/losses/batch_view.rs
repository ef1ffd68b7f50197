//! A batch from the losses' view: probabilities, masks, sums and means.

use std::cell::RefCell;

use burn::tensor::activation::sigmoid;
use burn::tensor::{Tensor, TensorData};

use super::outputs::{ClassWeights, Outputs};
use crate::distributed::process_group::{Gathered, ProcessGroup};
use ctseg_base::{Error, Result};

/// Makes an empty mean 0 instead of 0/0.
const SMALLEST: f64 = 1e-8;

/// Logits and targets of a batch, with masks and class weights.
pub struct BatchView<'a> {
    outputs: Outputs,
    weights: Option<&'a ClassWeights>,
    /// (batch, structure, z, y, x)
    pub logits: Tensor<5>,
    /// Same shape as the logits; 0 where masked.
    pub targets: Tensor<5>,
    /// 1 for voxels that count and 0 for ignored ones, (batch, structure or 1, z, y, x); `None` if all count.
    mask: Option<Tensor<5>>,
    /// The processes that share the batch.
    group: &'a ProcessGroup,
    /// The first error of a collective operation.
    fault: RefCell<Option<Error>>,
}

/// Softmax of exclusive classes.
pub struct Softmax {
    /// (batch, structure, z, y, x), without the background; 0 where masked
    pub probabilities: Tensor<5>,
    /// Logarithm of the sum of e^logit over all classes, (batch, 1, z, y, x)
    pub log_sum: Tensor<5>,
}

impl<'a> BatchView<'a> {
    /// `ignore_nan`: whether targets may be NaN, which marks unlabelled voxels.
    pub fn new(
        outputs: Outputs,
        weights: Option<&'a ClassWeights>,
        ignore_nan: bool,
        logits: Tensor<5>,
        targets: Tensor<5>,
        group: &'a ProcessGroup,
    ) -> Self {
        let mut view = Self {
            outputs,
            weights,
            logits,
            targets,
            mask: None,
            group,
            fault: RefCell::default(),
        };
        if ignore_nan {
            let unknown = view.targets.clone().is_nan();
            view.targets = view.targets.mask_fill(unknown.clone(), 0.0);
            let counted = unknown.bool_not().float();
            let counted = match outputs {
                Outputs::Independent => counted,
                // Exclusive classes are either all known or all unknown.
                Outputs::Exclusive => counted.min_dim(1),
            };
            view.targets = view.targets * counted.clone();
            view.mask = Some(counted);
        }
        view
    }

    /// The first error of a collective operation, if any.
    pub fn check(&self) -> Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }

    /// Sums `own` over the processes. The gradient stays that of `own`: added up over all processes, it is the
    /// gradient of the whole batch.
    pub fn all_reduce<const D: usize>(&self, own: Tensor<D>) -> Tensor<D> {
        if self.group.is_single() {
            return own;
        }
        let shape = own.dims();
        let values: Vec<f32> = own.clone().detach().into_data().iter::<f32>().collect();
        let mut sums = values.clone();
        self.record_error(self.group.all_reduce_f32(&mut sums));
        let others: Vec<f32> = sums
            .iter()
            .zip(&values)
            .map(|(sum, own)| sum - own)
            .collect();
        let device = own.device();
        own + Tensor::from_data(TensorData::new(others, shape), &device)
    }

    /// The values of all processes; only this process's own values after an error.
    pub fn all_gather(&self, own: Vec<f32>) -> Gathered {
        match self.group.all_gather(&own) {
            Ok(gathered) => gathered,
            Err(error) => {
                self.record_error(Err(error));
                let own_range = 0..own.len();
                Gathered {
                    values: own,
                    own_range,
                }
            }
        }
    }

    fn record_error(&self, result: Result<()>) {
        if let Err(error) = result {
            self.fault.borrow_mut().get_or_insert(error);
        }
    }

    /// The mean over the values of all processes.
    fn mean<const D: usize>(&self, values: Tensor<D>) -> Tensor<1> {
        if self.group.is_single() {
            return values.mean();
        }
        let mut count = [values.shape().num_elements() as f64];
        self.record_error(self.group.all_reduce_f64(&mut count));
        self.all_reduce(values.sum()) / count[0].max(1.0)
    }

    pub fn outputs(&self) -> Outputs {
        self.outputs
    }

    /// `values`, set to 0 where masked.
    pub fn masked(&self, values: Tensor<5>) -> Tensor<5> {
        match &self.mask {
            Some(counted) => values * counted.clone(),
            None => values,
        }
    }

    /// Per structure; 0 where masked. (batch, structure, z, y, x)
    pub fn probabilities(&self) -> Tensor<5> {
        match self.outputs {
            Outputs::Independent => self.masked(sigmoid(self.logits.clone())),
            Outputs::Exclusive => self.softmax().probabilities,
        }
    }

    /// Softmax over the structures and the background, whose logit is 0 everywhere.
    pub fn softmax(&self) -> Softmax {
        // Subtracting the largest logit keeps the exponentials finite and does not change the result.
        let largest = self.logits.clone().detach().max_dim(1).clamp_min(0.0);
        let exponentials = (self.logits.clone() - largest.clone()).exp();
        let sum = exponentials.clone().sum_dim(1) + largest.clone().neg().exp();
        Softmax {
            probabilities: self.masked(exponentials / sum.clone()),
            log_sum: sum.log() + largest,
        }
    }

    /// Sums over the voxels of each structure: (1, structure) over the whole batch, or (batch, structure) if
    /// `per_sample`.
    pub fn per_structure(&self, values: Tensor<5>, per_sample: bool) -> Tensor<2> {
        let [batch, structures, _, _, _] = values.dims();
        // Along x first: it reduces the most.
        let sums: Tensor<2> = values
            .sum_dim(4)
            .sum_dim(3)
            .sum_dim(2)
            .reshape([batch, structures]);
        match per_sample {
            true => sums,
            false => self.all_reduce(sums.sum_dim(0)),
        }
    }

    /// The mean of a measure over structures, by the structures' weights. `values`: (1, structure) from sums of
    /// [`BatchView::per_structure`], or (batch, structure) if `per_sample`
    pub fn mean_over_structures(&self, values: Tensor<2>, per_sample: bool) -> Tensor<1> {
        let Some(weights) = self.weights else {
            return self.mean_over_rows(values, per_sample);
        };
        let [rows, structures] = values.dims();
        let row: Tensor<2> = weights.row(&values.device()).reshape([1, structures]);
        let (mut sum, mut rows) = ((values * row).sum(), [rows as f64]);
        if per_sample {
            self.record_error(self.group.all_reduce_f64(&mut rows));
            sum = self.all_reduce(sum);
        }
        let total = weights.structures.iter().sum::<f64>() * rows[0];
        sum / total.max(SMALLEST)
    }

    /// The mean of `values`, which cover the whole batch, or only this process's samples if `per_sample`.
    pub fn mean_over_rows<const D: usize>(&self, values: Tensor<D>, per_sample: bool) -> Tensor<1> {
        match per_sample {
            true => self.mean(values),
            false => values.mean(),
        }
    }

    /// The mean of `values` over unmasked voxels, by class weights. `values`: (batch, structure, z, y, x) for
    /// independent structures, (batch, 1, z, y, x) for exclusive classes
    pub fn mean_over_voxels(&self, values: Tensor<5>) -> Tensor<1> {
        match self.voxel_weights() {
            None => self.mean(values),
            Some(weights) => {
                let total = self.all_reduce(sum(weights.clone().expand(values.dims())));
                self.all_reduce(sum(values * weights)) / total.clamp_min(SMALLEST)
            }
        }
    }

    /// The weights of [`BatchView::mean_over_voxels`]; `None` if all voxels count equally.
    pub fn voxel_weights(&self) -> Option<Tensor<5>> {
        let Some(weights) = self.weights else {
            return self.mask.clone();
        };
        let [_, structures, _, _, _] = self.targets.dims();
        let row = weights.row(&self.targets.device());
        let row: Tensor<5> = match self.outputs {
            Outputs::Independent => row.reshape([1, structures, 1, 1, 1]),
            Outputs::Exclusive => {
                // A voxel has the weight of its class: a structure's, or the background's.
                let more = (row - weights.background).reshape([1, structures, 1, 1, 1]);
                (self.targets.clone() * more).sum_dim(1) + weights.background
            }
        };
        Some(self.masked(row))
    }

    /// 1 for voxels that count and 0 for ignored ones; `None` if all count.
    pub fn mask(&self) -> Option<&Tensor<5>> {
        self.mask.as_ref()
    }

    /// The mean of `values` (batch, structure, z, y, x) over unmasked voxels; `values` must be 0 where masked.
    pub fn masked_mean(&self, values: Tensor<5>) -> Tensor<1> {
        match &self.mask {
            None => self.mean(values),
            Some(counted) => {
                let count = self.all_reduce(sum(counted.clone().expand(values.dims())));
                self.all_reduce(sum(values)) / count.clamp_min(1.0)
            }
        }
    }
}

/// The sum of all values, axis by axis, which keeps rounding errors small.
pub(super) fn sum(values: Tensor<5>) -> Tensor<1> {
    values.sum_dim(4).sum_dim(3).sum_dim(2).sum()
}
