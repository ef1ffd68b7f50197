//! Loss functions, all on logits. To add one: a file here that implements `LossKind`, and its line in `registry`.
//!
//! There is one logit map per structure for both kinds of outputs. Independent structures use a sigmoid. Exclusive
//! classes use a softmax over the structures and the background, whose logit is fixed at 0 and not an output of the
//! network. A network with a background output becomes equivalent by subtracting the background's last-layer weights
//! from those of every structure.

mod batch_view;
mod boundary;
mod cross_entropy;
mod cross_entropy_and_dice;
pub(crate) mod deep_supervision;
mod dice;
mod focal;
mod generalised_dice;
#[cfg(test)]
pub(crate) mod golden;
mod kind;
pub mod name_or_section;
mod outputs;
mod registry;
mod topk;
mod tversky;

pub use boundary::{BoundarySettings, RegionLoss};
pub use cross_entropy::NoSettings;
pub use cross_entropy_and_dice::SumSettings;
pub use dice::DiceSettings;
pub use focal::FocalSettings;
pub use generalised_dice::GeneralisedDiceSettings;
pub use kind::WeightedSum;
pub use outputs::{ClassWeights, Outputs};
pub use registry::LossConfig;
pub use topk::TopkSettings;
pub use tversky::{FocalTverskySettings, TverskySettings};

use burn::tensor::{Device, Tensor, TensorData};

use crate::batch::Batch;
use crate::distributed::process_group::ProcessGroup;
use ctseg_base::Result;

use batch_view::BatchView;

/// The training objective. Stateless.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loss {
    pub config: LossConfig,
    pub outputs: Outputs,
    /// `None` for equal weights.
    pub weights: Option<ClassWeights>,
    /// Whether targets may be NaN, which marks unlabelled voxels; they are ignored.
    pub ignore_nan: bool,
}

impl From<LossConfig> for Loss {
    fn from(config: LossConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }
}

impl Loss {
    /// The loss of one batch, a tensor with one element.
    ///
    /// # Shapes
    /// - `logits`, `targets`: (batch, structure, z, y, x); targets are 0 or 1, or NaN where [`Loss::ignore_nan`]
    /// - `distances`: as `targets`, in mm, if [`Loss::needs_distances`]; without them the boundary term is 0
    pub fn compute(
        &self,
        logits: Tensor<5>,
        targets: Tensor<5>,
        distances: Option<Tensor<5>>,
    ) -> Tensor<1> {
        let alone = ProcessGroup::single();
        self.config
            .compute(&self.view(logits, targets, &alone), distances)
    }

    /// The loss of a batch whose input holds logits, in the shape of its targets.
    pub fn of_logits(&self, batch: Batch, device: &Device) -> f32 {
        let tensor = |values: Vec<f32>| {
            Tensor::<5>::from_data(TensorData::new(values, batch.targets_shape), device)
        };
        let distances = batch.distances.map(tensor);
        let loss = self.compute(tensor(batch.input), tensor(batch.targets), distances);
        loss.into_scalar::<f32>()
    }

    /// The loss of a batch that the processes of `group` share; the same value in all of them. Gradients of weights
    /// must be summed over the processes.
    ///
    /// # Errors
    /// A failed collective operation.
    pub(crate) fn compute_distributed(
        &self,
        logits: Tensor<5>,
        targets: Tensor<5>,
        distances: Option<Tensor<5>>,
        group: &ProcessGroup,
    ) -> Result<Tensor<1>> {
        let view = self.view(logits, targets, group);
        let loss = self.config.compute(&view, distances);
        view.check().map(|()| loss)
    }

    fn view<'a>(
        &'a self,
        logits: Tensor<5>,
        targets: Tensor<5>,
        group: &'a ProcessGroup,
    ) -> BatchView<'a> {
        let weights = self.weights.as_ref();
        BatchView::new(
            self.outputs,
            weights,
            self.ignore_nan,
            logits,
            targets,
            group,
        )
    }

    /// Whether the loss needs signed distances to the structures' surfaces.
    pub fn needs_distances(&self) -> bool {
        self.config.needs_distances()
    }

    /// As a sum of cross-entropy and Dice of independent structures with equal weights, if it is one.
    pub fn as_sum(&self) -> Option<WeightedSum> {
        let unweighted = self.outputs == Outputs::Independent && self.weights.is_none();
        unweighted.then(|| self.config.as_sum()).flatten()
    }

    /// See [`LossConfig::name`].
    pub fn name(&self) -> String {
        self.config.name()
    }
}

#[cfg(test)]
mod tests {
    use super::golden::{self, Input};
    use super::*;
    use crate::device::DeviceChoice;
    use crate::distributed::threads::in_process_group;
    use serde::{Deserialize, Serialize};

    /// By Burn's autodiff, on flex if available.
    fn by_burn(loss: &Loss, input: &Input) -> (f64, Vec<f32>) {
        graded(loss, input, |logits, targets, distances| {
            loss.compute(logits, targets, distances)
        })
    }

    /// Same for a process's share of a batch.
    fn by_burn_distributed(loss: &Loss, share: &Input, group: &ProcessGroup) -> (f64, Vec<f32>) {
        graded(loss, share, |logits, targets, distances| {
            let value = loss.compute_distributed(logits, targets, distances, group);
            value.unwrap()
        })
    }

    /// The result of `compute` on logits, targets and distances, and its gradient with respect to the logits.
    fn graded(
        loss: &Loss,
        input: &Input,
        compute: impl FnOnce(Tensor<5>, Tensor<5>, Option<Tensor<5>>) -> Tensor<1>,
    ) -> (f64, Vec<f32>) {
        let device = DeviceChoice::Flex.device();
        let device = device.or(DeviceChoice::Auto.device()).unwrap().autodiff();
        let tensor = |values: &[f32]| {
            Tensor::<5>::from_data(TensorData::new(values.to_vec(), input.shape), &device)
        };
        let leaf = tensor(&input.logits).require_grad();
        let distances = loss.needs_distances().then(|| tensor(&input.distances));
        let loss = compute(leaf.clone(), tensor(&input.targets), distances);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let gradient = leaf.grad(&loss.backward()).unwrap();
        (value, gradient.into_data().try_into_vec::<f32>().unwrap())
    }

    #[test]
    fn losses_and_gradients_equal_the_references() {
        golden::equal_the_references(&by_burn);
    }

    /// Every loss with its settings, for both kinds of outputs, with and without weights.
    fn all_losses() -> Vec<Loss> {
        let settings = [
            ("independent", r#"{"kind":"bce"}"#),
            ("independent", r#"{"kind":"bce_dice"}"#),
            ("independent", r#"{"kind":"dice","per_sample":true}"#),
            ("exclusive", r#"{"kind":"ce_dice"}"#),
            ("exclusive", r#"{"kind":"ce_dice","per_sample":true}"#),
            ("exclusive", r#"{"kind":"focal"}"#),
            ("exclusive", r#"{"kind":"tversky"}"#),
            ("exclusive", r#"{"kind":"focal_tversky","per_sample":true}"#),
            ("exclusive", r#"{"kind":"generalised_dice"}"#),
            (
                "independent",
                r#"{"kind":"generalised_dice","per_sample":true}"#,
            ),
            ("exclusive", r#"{"kind":"boundary","region":"ce_dice"}"#),
            (
                "exclusive",
                r#"{"kind":"topk","share":0.1,"dice_weight":0.5}"#,
            ),
            ("independent", r#"{"kind":"topk","share":0.3}"#),
        ];
        let mut losses = Vec::new();
        for (outputs, config) in settings {
            for (weighted, ignore_nan) in [(false, false), (true, false), (true, true)] {
                losses.push(Loss {
                    config: serde_json::from_str(config).unwrap(),
                    outputs: serde_json::from_str(&format!("{outputs:?}")).unwrap(),
                    weights: weighted.then(|| ClassWeights {
                        structures: vec![0.5, 2.0],
                        background: 0.25,
                    }),
                    ignore_nan,
                });
            }
        }
        losses
    }

    /// Five samples of two structures: at most one structure per voxel, and none in some samples.
    fn five_samples(ignore_nan: bool) -> Input {
        let shape = [5, 2, 2, 6, 7];
        let voxels = 2 * 6 * 7;
        let count = shape.iter().product::<usize>();
        let wave = |i: usize, pace: f32| (i as f32 * pace).sin();
        let class = |sample: usize, voxel: usize| match sample {
            3 => 0,
            _ => (voxel / 9 + sample) % 4,
        };
        let at = |i: usize| (i / (2 * voxels), i / voxels % 2, i % voxels);
        let target = |i: usize| match at(i) {
            (sample, _, voxel) if ignore_nan && (voxel + sample) % 11 == 0 => f32::NAN,
            (sample, map, voxel) => f32::from(u8::from(class(sample, voxel) == map + 1)),
        };
        Input {
            shape,
            logits: (0..count).map(|i| 2.0 * wave(i, 0.73)).collect(),
            targets: (0..count).map(target).collect(),
            distances: (0..count).map(|i| 9.0 * wave(i, 0.11)).collect(),
        }
    }

    #[test]
    fn shares_of_a_batch_cost_what_the_whole_batch_does() {
        for loss in all_losses() {
            let batch = five_samples(loss.ignore_nan);
            let [samples, of_sample @ ..] = batch.shape;
            let values = of_sample.iter().product::<usize>();
            let (whole, gradient) = by_burn_distributed(&loss, &batch, &ProcessGroup::single());
            in_process_group(2, |group| {
                let share = group.shard(samples);
                let part = |all: &[f32]| all[share.start * values..share.end * values].to_vec();
                let mut own = Input {
                    shape: batch.shape,
                    logits: part(&batch.logits),
                    targets: part(&batch.targets),
                    distances: part(&batch.distances),
                };
                own.shape[0] = share.len();
                let (value, own) = by_burn_distributed(&loss, &own, group);
                assert!(
                    (value - whole).abs() < 1e-6 * whole.abs().max(1.0),
                    "{loss:?}"
                );
                let largest = gradient.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                assert!(largest > 0.0, "{loss:?}");
                for (own, whole) in own.iter().zip(part(&gradient)) {
                    assert!(
                        (own - whole).abs() <= 2e-6 * largest,
                        "{loss:?}: {own} {whole}"
                    );
                }
            });
        }
    }

    #[test]
    fn where_nothing_is_known_nothing_costs() {
        golden::nothing_known_costs_nothing(&by_burn);
    }

    #[test]
    fn ignored_voxels_may_hold_anything() {
        golden::ignored_logits_do_not_matter(&by_burn);
    }

    #[test]
    fn huge_logits_stay_finite() {
        golden::huge_logits_stay_finite(&by_burn);
    }

    #[test]
    fn a_name_and_a_section_are_read_and_written() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Held {
            #[serde(with = "name_or_section")]
            loss: LossConfig,
        }
        let read = |text: &str| serde_json::from_str::<Held>(text);
        for (text, written) in [
            (r#"{"loss":"bce_dice"}"#, r#"{"loss":"bce_dice"}"#),
            (r#"{"loss":{"kind":"focal"}}"#, r#"{"loss":"focal"}"#),
            (
                r#"{"loss":{"share":0.2,"kind":"topk"}}"#,
                r#"{"loss":{"kind":"topk","share":0.2,"dice_weight":0.0}}"#,
            ),
        ] {
            let held = read(text).unwrap();
            assert_eq!(serde_json::to_string(&held).unwrap(), written);
            assert_eq!(read(written).unwrap(), held);
        }
        for (text, expected) in [
            (r#"{"loss":"vocal"}"#, "vocal"),
            (r#"{"loss":{"kind":"dice","smoth":1}}"#, "smoth"),
            (r#"{"loss":{"smooth":1}}"#, "kind"),
            (r#"{"loss":3}"#, "the name of a loss"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
