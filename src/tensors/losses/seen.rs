//! A batch as losses see it: probabilities, what counts, sums and means over it.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::{ClassWeights, Outputs};

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
    ) -> Self {
        let mut seen = Self {
            outputs,
            weights,
            logits,
            targets,
            counted: None,
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
            false => sums.sum_dim(0),
        }
    }

    /// The mean of a measure of each structure, by the structures' weights. `values`: (any, structure)
    pub fn mean_over_structures(&self, values: Tensor<2>) -> Tensor<1> {
        let Some(weights) = self.weights else {
            return values.mean();
        };
        let [rows, structures] = values.dims();
        let row: Tensor<2> = weights.row(&values.device()).reshape([1, structures]);
        let total = weights.structures.iter().sum::<f64>() * rows as f64;
        (values * row).sum() / total.max(SMALLEST)
    }

    /// The mean of `values`, which are (batch, structure, z, y, x) of independent structures and
    /// (batch, 1, z, y, x) of exclusive classes, over what counts, by the weights of the classes.
    pub fn mean_over_voxels(&self, values: Tensor<5>) -> Tensor<1> {
        match self.voxel_weights() {
            None => values.mean(),
            Some(weights) => {
                let total = sum(weights.clone().expand(values.dims()));
                sum(values * weights) / total.clamp_min(SMALLEST)
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
            None => values.mean(),
            Some(counted) => {
                let count = sum(counted.clone().expand(values.dims()));
                sum(values) / count.clamp_min(1.0)
            }
        }
    }
}

/// The sum of everything, axis by axis: no running sum gets so long that what is added is lost.
pub(super) fn sum(values: Tensor<5>) -> Tensor<1> {
    values.sum_dim(4).sum_dim(3).sum_dim(2).sum()
}
