//! Recipe settings that have no effect.

use super::{JitterConfig, PlateauConfig, Recipe, Region, Schedule, SlidingConfig};
use ctseg_augment::FlipAxis;
use ctseg_engine::optim::{OptimiserConfig, OptimiserKind};

/// Minimum number of levels for deep supervision: the bottleneck and the level above it have no logits of their own.
const MIN_SUPERVISED_LEVELS: usize = 4;

impl Recipe {
    /// Settings without effect, one line each with the reason.
    pub fn without_effect(&self) -> Vec<String> {
        let mut lines = self.network_without_effect();
        lines.extend(self.training_without_effect());
        lines.extend(self.region_without_effect());
        lines
    }

    fn network_without_effect(&self) -> Vec<String> {
        let training = &self.training;
        let mut lines = Vec::new();
        if let Some(network) = self.network.unet() {
            let levels = network.widths.len();
            if network.deep_supervision && levels < MIN_SUPERVISED_LEVELS {
                lines.push(format!(
                    "network.deep_supervision has no effect: it needs at least {MIN_SUPERVISED_LEVELS} levels, but network.widths has {levels}"
                ));
            }
            let frozen = training.freeze_encoder_levels;
            if frozen > levels {
                lines.push(format!(
                    "training.freeze_encoder_levels = {frozen} freezes all {levels} levels that network.widths has"
                ));
            }
        }
        if let Some(epoch) = training.unfreeze_epoch
            && epoch >= training.epochs
        {
            lines.push(format!(
                "training.unfreeze_epoch = {epoch} is never reached: training.epochs is {}; frozen levels stay frozen",
                training.epochs
            ));
        }
        lines
    }

    fn training_without_effect(&self) -> Vec<String> {
        let (training, default) = (&self.training, OptimiserConfig::default());
        let optimiser = &training.optimiser;
        let kind = optimiser.kind;
        let momentum =
            optimiser.momentum != default.momentum || optimiser.nesterov != default.nesterov;
        let mirrored = training.flips(FlipAxis::X);
        let paired = training
            .augmentation()
            .is_some_and(|a| !a.mirror_pairs.is_empty());
        let name = kind.name();
        let checks = [
            (
                training.schedule != Schedule::Plateau
                    && training.plateau != PlateauConfig::default(),
                "training.plateau has no effect: it applies to training.schedule = \"plateau\""
                    .to_owned(),
            ),
            (
                momentum && !kind.uses_momentum(),
                format!(
                    "training.optimiser.momentum and nesterov have no effect: they apply to {}, not {name}",
                    names_of(OptimiserKind::uses_momentum)
                ),
            ),
            (
                optimiser.betas != default.betas && !kind.uses_betas(),
                format!(
                    "training.optimiser.betas have no effect: they apply to {}, not {name}",
                    names_of(OptimiserKind::uses_betas)
                ),
            ),
            (
                optimiser.eps != default.eps && !kind.uses_eps(),
                format!("training.optimiser.eps has no effect: {name} does not use it"),
            ),
            (
                paired && !mirrored,
                "training.augmentation.mirror_pairs has no effect: flip_axes does not contain \"x\""
                    .to_owned(),
            ),
        ];
        holding(checks)
    }

    fn region_without_effect(&self) -> Vec<String> {
        let whole = self.region == Region::Whole;
        holding([
            (
                whole && self.jitter != JitterConfig::default(),
                "jitter has no effect: region is \"whole\"".to_owned(),
            ),
            (
                !whole && !self.prior && self.jitter.drop_prior > 0.0,
                "jitter.drop_prior has no effect: prior is false".to_owned(),
            ),
            (
                !self.is_patch_based() && self.sliding != SlidingConfig::default(),
                "sliding has no effect: 2D networks take whole slices".to_owned(),
            ),
        ])
    }
}

/// The optimisers that use a setting.
fn names_of(uses: fn(OptimiserKind) -> bool) -> String {
    let kinds = OptimiserKind::ALL.iter().filter(|kind| uses(**kind));
    let names: Vec<&str> = kinds.map(|kind| kind.name()).collect();
    names.join(" and ")
}

fn holding<const N: usize>(checks: [(bool, String); N]) -> Vec<String> {
    let holding = checks.into_iter().filter(|(holds, _)| *holds);
    holding.map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(stage: &str, set: &[&str]) -> Vec<String> {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        Recipe::named(stage, &set).unwrap().without_effect()
    }

    fn assert_listed(cases: &[(&str, Vec<&str>, &str)]) {
        for (stage, set, expected) in cases {
            let found = lines(stage, set);
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn network_settings_without_effect_are_listed() {
        assert_listed(&[
            (
                "refine",
                vec![
                    "network.deep_supervision=true",
                    "network.widths=[8, 16, 32]",
                ],
                "network.deep_supervision has no effect: it needs at least 4 levels, but network.widths has 3",
            ),
            (
                "refine",
                vec!["training.freeze_encoder_levels=9"],
                "training.freeze_encoder_levels = 9 freezes all 4 levels",
            ),
            (
                "refine",
                vec![
                    "training.freeze_encoder_levels=2",
                    "training.unfreeze_epoch=60",
                ],
                "training.unfreeze_epoch = 60 is never reached: training.epochs is 60",
            ),
        ]);
    }

    #[test]
    fn settings_of_other_choices_are_listed() {
        assert_listed(&[
            (
                "refine",
                vec!["training.plateau.patience=2"],
                "training.plateau has no effect",
            ),
            (
                "refine",
                vec!["training.optimiser.momentum=0.9"],
                "they apply to sgd, not adam",
            ),
            (
                "nnunet-2d",
                vec!["training.optimiser.betas=[0.5, 0.9]"],
                "not sgd",
            ),
            (
                "refine",
                vec![
                    "training.augmentation.flip_axes=['y']",
                    "training.augmentation.mirror_pairs=[['a', 'b']]",
                ],
                "flip_axes does not contain \"x\"",
            ),
            (
                "single",
                vec!["jitter.shift_mm=4"],
                "jitter has no effect: region is \"whole\"",
            ),
            (
                "refine2_5d",
                vec!["sliding.step=0.7"],
                "sliding has no effect",
            ),
        ]);
    }

    #[test]
    fn every_setting_of_the_embedded_recipes_has_an_effect() {
        for stage in [
            "coarse",
            "refine",
            "refine2_5d",
            "single",
            "resenc",
            "slices",
            "demo-coarse",
            "demo-refine",
            "nnunet-2d",
            "nnunet-3d_fullres",
            "nnunet-resenc",
        ] {
            assert_eq!(lines(stage, &[]), [""; 0], "{stage}");
        }
        let deep = ["network.deep_supervision=true"];
        assert_eq!(lines("refine", &deep), [""; 0]);
    }
}
