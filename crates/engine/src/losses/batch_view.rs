//! A batch as losses see it: probabilities, what counts, sums and means over it.

use std::cell::RefCell;

use burn::tensor::activation::sigmoid;
use burn::tensor::{Tensor, TensorData};

use super::outputs::{ClassWeights, Outputs};
use crate::distributed::process_group::{Gathered, Team};
use ctseg_base::{Error, Result};

/// Keeps a mean over nothing 0 instead of 0/0.
const SMALLEST: f64 = 1e-8;

/// Logits and targets of a batch with everything that says what counts how much.
pub(super) struct Seen<'a> {
    outputs: Outputs,
    weights: Option<&'a ClassWeights>,
    /// (batch, structure, z, y, x)
    pub logits: Tensor<5>,
    /// As the logits; 0 where nothing counts.
    pub targets: Tensor<5>,
    /// 1 where a voxel counts and 0 where it is ignored, (batch, structure or 1, z, y, x); none where all
    /// count.
    counted: Option<Tensor<5>>,
    /// Of whose batch this is a share.
    team: &'a Team,
    /// What went wrong between its processes.
    fault: RefCell<Option<Error>>,
}

/// Of exclusive classes.
pub(super) struct Softmax {
    /// (batch, structure, z, y, x), without the background's; 0 where nothing counts
    pub probabilities: Tensor<5>,
    /// Logarithm of the sum over all classes of e^logit, (batch, 1, z, y, x)
    pub log_sum: Tensor<5>,
}

impl<'a> Seen<'a> {
    /// `ignores`: whether targets may be NaN, which is how a voxel says that nothing is known of it.
    pub fn new(
        outputs: Outputs,
        weights: Option<&'a ClassWeights>,
        ignores: bool,
        logits: Tensor<5>,
        targets: Tensor<5>,
        team: &'a Team,
    ) -> Self {
        let mut seen = Self {
            outputs,
            weights,
            logits,
            targets,
            counted: None,
            team,
            fault: RefCell::default(),
        };
        if ignores {
            let unknown = seen.targets.clone().is_nan();
            seen.targets = seen.targets.mask_fill(unknown.clone(), 0.0);
            let counted = unknown.bool_not().float();
            let counted = match outputs {
                Outputs::Independent => counted,
                // Of classes that exclude each other, all are known or none.
                Outputs::Exclusive => counted.min_dim(1),
            };
            seen.targets = seen.targets * counted.clone();
            seen.counted = Some(counted);
        }
        seen
    }

    /// Whether all sums over the batch could be made.
    pub fn checked(&self) -> Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }

    /// `own` sums over this share of the batch, as those over the whole batch. Their gradient is that of `own`: of all
    /// processes together it is the whole batch's.
    pub fn whole<const D: usize>(&self, own: Tensor<D>) -> Tensor<D> {
        if self.team.is_alone() {
            return own;
        }
        let shape = own.dims();
        let values: Vec<f32> = own.clone().detach().into_data().iter::<f32>().collect();
        let mut sums = values.clone();
        self.take_in(self.team.sum_f32(&mut sums));
        let others: Vec<f32> = sums
            .iter()
            .zip(&values)
            .map(|(sum, own)| sum - own)
            .collect();
        let device = own.device();
        own + Tensor::from_data(TensorData::new(others, shape), &device)
    }

    /// The values of all processes; only the own ones where that went wrong.
    pub fn gathered(&self, own: Vec<f32>) -> Gathered {
        match self.team.gathered(&own) {
            Ok(gathered) => gathered,
            Err(error) => {
                self.take_in(Err(error));
                let own_place = 0..own.len();
                Gathered {
                    values: own,
                    own_place,
                }
            }
        }
    }

    fn take_in(&self, result: Result<()>) {
        if let Err(error) = result {
            self.fault.borrow_mut().get_or_insert(error);
        }
    }

    /// The mean over all values of all processes.
    fn mean<const D: usize>(&self, values: Tensor<D>) -> Tensor<1> {
        if self.team.is_alone() {
            return values.mean();
        }
        let mut count = [values.shape().num_elements() as f64];
        self.take_in(self.team.sum_f64(&mut count));
        self.whole(values.sum()) / count[0].max(1.0)
    }

    pub fn outputs(&self) -> Outputs {
        self.outputs
    }

    /// 0 wherever nothing counts.
    pub fn only_counted(&self, values: Tensor<5>) -> Tensor<5> {
        match &self.counted {
            Some(counted) => values * counted.clone(),
            None => values,
        }
    }

    /// Of each structure; 0 where nothing counts. (batch, structure, z, y, x)
    pub fn probabilities(&self) -> Tensor<5> {
        match self.outputs {
            Outputs::Independent => self.only_counted(sigmoid(self.logits.clone())),
            Outputs::Exclusive => self.softmax().probabilities,
        }
    }

    /// Softmax over the structures and the background, whose logit is 0 everywhere.
    pub fn softmax(&self) -> Softmax {
        // Taking the largest logit away keeps the exponentials finite and changes nothing.
        let largest = self.logits.clone().detach().max_dim(1).clamp_min(0.0);
        let exponentials = (self.logits.clone() - largest.clone()).exp();
        let sum = exponentials.clone().sum_dim(1) + largest.clone().neg().exp();
        Softmax {
            probabilities: self.only_counted(exponentials / sum.clone()),
            log_sum: sum.log() + largest,
        }
    }

    /// Sums over the voxels of each structure: (1, structure) over the whole batch, (batch, structure) where
    /// each sample counts by itself.
    pub fn per_structure(&self, values: Tensor<5>, per_sample: bool) -> Tensor<2> {
        let [batch, structures, _, _, _] = values.dims();
        // Along x first: what is left over is small.
        let sums: Tensor<2> = values
            .sum_dim(4)
            .sum_dim(3)
            .sum_dim(2)
            .reshape([batch, structures]);
        match per_sample {
            true => sums,
            false => self.whole(sums.sum_dim(0)),
        }
    }

    /// The mean of a measure of each structure, by the structures' weights. `values`: (1, structure) of
    /// sums as [`Seen::per_structure`] gives them, (batch, structure) where they are `per_sample`
    pub fn mean_over_structures(&self, values: Tensor<2>, per_sample: bool) -> Tensor<1> {
        let Some(weights) = self.weights else {
            return self.mean_over_rows(values, per_sample);
        };
        let [rows, structures] = values.dims();
        let row: Tensor<2> = weights.row(&values.device()).reshape([1, structures]);
        let (mut sum, mut rows) = ((values * row).sum(), [rows as f64]);
        if per_sample {
            self.take_in(self.team.sum_f64(&mut rows));
            sum = self.whole(sum);
        }
        let total = weights.structures.iter().sum::<f64>() * rows[0];
        sum / total.max(SMALLEST)
    }

    /// The mean of `values`, which are of the whole batch, or of this share's samples where they are `per_sample`.
    pub fn mean_over_rows<const D: usize>(&self, values: Tensor<D>, per_sample: bool) -> Tensor<1> {
        match per_sample {
            true => self.mean(values),
            false => values.mean(),
        }
    }

    /// The mean of `values`, which are (batch, structure, z, y, x) of independent structures and
    /// (batch, 1, z, y, x) of exclusive classes, over what counts, by the weights of the classes.
    pub fn mean_over_voxels(&self, values: Tensor<5>) -> Tensor<1> {
        match self.voxel_weights() {
            None => self.mean(values),
            Some(weights) => {
                let total = self.whole(sum(weights.clone().expand(values.dims())));
                self.whole(sum(values * weights)) / total.clamp_min(SMALLEST)
            }
        }
    }

    /// What each value of [`Seen::mean_over_voxels`] is multiplied by; none where all count alike.
    pub fn voxel_weights(&self) -> Option<Tensor<5>> {
        let Some(weights) = self.weights else {
            return self.counted.clone();
        };
        let [_, structures, _, _, _] = self.targets.dims();
        let row = weights.row(&self.targets.device());
        let row: Tensor<5> = match self.outputs {
            Outputs::Independent => row.reshape([1, structures, 1, 1, 1]),
            Outputs::Exclusive => {
                // A voxel counts as its class does: the background's weight, or that of what is there.
                let more = (row - weights.background).reshape([1, structures, 1, 1, 1]);
                (self.targets.clone() * more).sum_dim(1) + weights.background
            }
        };
        Some(self.only_counted(row))
    }

    /// 1 where a voxel counts and 0 where it is ignored; none where all count.
    pub fn counted(&self) -> Option<&Tensor<5>> {
        self.counted.as_ref()
    }

    /// The mean of `values` (batch, structure, z, y, x), which are 0 where nothing counts, over what counts.
    pub fn mean_of_counted(&self, values: Tensor<5>) -> Tensor<1> {
        match &self.counted {
            None => self.mean(values),
            Some(counted) => {
                let count = self.whole(sum(counted.clone().expand(values.dims())));
                self.whole(sum(values)) / count.clamp_min(1.0)
            }
        }
    }
}

/// The sum of everything, axis by axis: no running sum gets so long that what is added is lost.
pub(super) fn sum(values: Tensor<5>) -> Tensor<1> {
    values.sum_dim(4).sum_dim(3).sum_dim(2).sum()
}
