//! The losses that a recipe can name, all on logits. A new one is a file here, its settings in `config` and
//! one arm in the match below.
//!
//! Logits are one map per structure, whichever outputs a recipe asks for. Independent structures are sigmoids.
//! Exclusive classes are a softmax over the structures and the background, whose logit is 0 everywhere and
//! no output of the network: a network with a background of its own gives the same probabilities after its
//! last layer's weights for the background are taken from those of every structure.

mod batch_view;
mod boundary;
mod config;
mod cross_entropy;
pub(crate) mod deep_supervision;
mod dice;
mod focal;
mod generalised_dice;
#[cfg(test)]
pub(crate) mod golden;
mod outputs;
mod topk;
mod tversky;

pub use config::{
    BoundarySettings, DiceSettings, FocalSettings, FocalTverskySettings, GeneralisedDiceSettings,
    LossConfig, NoSettings, RegionLoss, SumSettings, TopkSettings, TverskySettings,
    name_or_section,
};
pub use outputs::{ClassWeights, Outputs};

use burn::tensor::{Device, Tensor, TensorData};

use crate::batch::Batch;
use crate::distributed::process_group::Team;
use ctseg_base::Result;

use batch_view::Seen;

/// What training minimises. It remembers nothing between calls.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loss {
    pub config: LossConfig,
    pub outputs: Outputs,
    /// All alike where there are none.
    pub weights: Option<ClassWeights>,
    /// Whether targets may be NaN, which is how a voxel says that nothing is known of it: it counts nothing.
    pub ignores: bool,
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
    /// - `logits`, `targets`: (batch, structure, z, y, x); targets are 0 or 1, or NaN where [`Loss::ignores`]
    /// - `distances`: as `targets`, in mm, where [`Loss::needs_distances`]; without them the boundary costs
    ///   nothing
    pub fn compute(
        &self,
        logits: Tensor<5>,
        targets: Tensor<5>,
        distances: Option<Tensor<5>>,
    ) -> Tensor<1> {
        let alone = Team::alone();
        of_seen(&self.config, &self.seen(logits, targets, &alone), distances)
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

    /// The loss of the batch of which each process of `team` has a share, in all of them. Its gradients by a weight
    /// have to be added up over the processes.
    ///
    /// # Errors
    /// What keeps the processes apart.
    pub(crate) fn compute_together(
        &self,
        logits: Tensor<5>,
        targets: Tensor<5>,
        distances: Option<Tensor<5>>,
        team: &Team,
    ) -> Result<Tensor<1>> {
        let seen = self.seen(logits, targets, team);
        let loss = of_seen(&self.config, &seen, distances);
        seen.checked().map(|()| loss)
    }

    fn seen<'a>(&'a self, logits: Tensor<5>, targets: Tensor<5>, team: &'a Team) -> Seen<'a> {
        let weights = self.weights.as_ref();
        Seen::new(self.outputs, weights, self.ignores, logits, targets, team)
    }

    /// Whether the loss asks for signed distances to the structures' surfaces.
    pub fn needs_distances(&self) -> bool {
        matches!(self.config, LossConfig::Boundary(_))
    }

    /// The name, as it stands in run names.
    pub fn name(&self) -> &'static str {
        self.config.name()
    }
}

fn of_seen(config: &LossConfig, seen: &Seen, distances: Option<Tensor<5>>) -> Tensor<1> {
    match config {
        LossConfig::Bce(_) | LossConfig::Ce(_) => cross_entropy::cross_entropy(seen),
        LossConfig::Dice(settings) => dice::soft_dice(seen, seen.probabilities(), settings),
        LossConfig::BceDice(settings) | LossConfig::CeDice(settings) => {
            cross_entropy_and_dice(seen, settings)
        }
        LossConfig::Focal(settings) => focal::focal(seen, settings),
        LossConfig::Tversky(settings) => tversky::tversky(seen, settings),
        LossConfig::FocalTversky(settings) => tversky::focal_tversky(seen, settings),
        LossConfig::GeneralisedDice(settings) => generalised_dice::generalised_dice(seen, settings),
        LossConfig::Boundary(settings) => {
            let region = of_seen(&settings.region.config(), seen, None);
            match distances {
                Some(distances) => region + boundary::boundary(seen, distances) * settings.weight,
                None => region,
            }
        }
        LossConfig::Topk(settings) => {
            let worst = topk::topk(seen, settings.share);
            if settings.dice_weight == 0.0 {
                return worst;
            }
            let dice = dice::soft_dice(seen, seen.probabilities(), &DiceSettings::default());
            worst + dice * settings.dice_weight
        }
    }
}

fn cross_entropy_and_dice(seen: &Seen, settings: &SumSettings) -> Tensor<1> {
    let (costs, probabilities) = match seen.outputs() {
        Outputs::Independent => (cross_entropy::of_voxels(seen), seen.probabilities()),
        Outputs::Exclusive => {
            let softmax = seen.softmax();
            (
                cross_entropy::of_classes(seen, softmax.log_sum),
                softmax.probabilities,
            )
        }
    };
    seen.mean_over_voxels(costs) * settings.cross_entropy_weight
        + dice::soft_dice(seen, probabilities, &settings.dice()) * settings.dice_weight
}

#[cfg(test)]
mod tests {
    use super::golden::{self, Input};
    use super::*;
    use crate::device::DeviceChoice;
    use crate::distributed::threads::in_team;
    use serde::{Deserialize, Serialize};

    /// By Burn's autodiff, on flex where the build has it.
    fn by_burn(loss: &Loss, input: &Input) -> (f64, Vec<f32>) {
        graded(loss, input, |logits, targets, distances| {
            loss.compute(logits, targets, distances)
        })
    }

    /// The same of a process's share of a batch.
    fn by_burn_together(loss: &Loss, share: &Input, team: &Team) -> (f64, Vec<f32>) {
        graded(loss, share, |logits, targets, distances| {
            let value = loss.compute_together(logits, targets, distances, team);
            value.unwrap()
        })
    }

    /// What `compute` makes of logits, targets and distances, and its gradient by the logits.
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

    /// Every loss, its settings, and both meanings of outputs, with weights and without.
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
            for (weighted, ignores) in [(false, false), (true, false), (true, true)] {
                losses.push(Loss {
                    config: serde_json::from_str(config).unwrap(),
                    outputs: serde_json::from_str(&format!("{outputs:?}")).unwrap(),
                    weights: weighted.then(|| ClassWeights {
                        structures: vec![0.5, 2.0],
                        background: 0.25,
                    }),
                    ignores,
                });
            }
        }
        losses
    }

    /// Five samples of two structures: at most one of them in each voxel, in some samples none.
    fn five_samples(ignores: bool) -> Input {
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
            (sample, _, voxel) if ignores && (voxel + sample) % 11 == 0 => f32::NAN,
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
            let batch = five_samples(loss.ignores);
            let [samples, of_sample @ ..] = batch.shape;
            let values = of_sample.iter().product::<usize>();
            let (whole, gradient) = by_burn_together(&loss, &batch, &Team::alone());
            in_team(2, |team| {
                let share = team.share(samples);
                let part = |all: &[f32]| all[share.start * values..share.end * values].to_vec();
                let mut own = Input {
                    shape: batch.shape,
                    logits: part(&batch.logits),
                    targets: part(&batch.targets),
                    distances: part(&batch.distances),
                };
                own.shape[0] = share.len();
                let (value, own) = by_burn_together(&loss, &own, team);
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
