//! What a stage does as nnU-Net does it where ctseg would do otherwise: `[nnunet]` of an imported model's recipe.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use ctseg_image::space::{Grid, Orientation};

/// nnU-Net 2.8's ways; axes are the network's (z, y, x) where nothing else is said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NnunetConfig {
    pub axes: Axes,
    /// For each of the network's axes the file's (`transpose_forward`).
    #[serde(default = "untransposed", skip_serializing_if = "is_untransposed")]
    pub transpose: [usize; 3],
    pub normalisation: NnunetNormalisation,
    /// Whether the volume is resampled slice by slice.
    #[serde(default)]
    pub image_slices: SeparateZ,
    /// The same of logits on their way back.
    #[serde(default)]
    pub logit_slices: SeparateZ,
    /// The same of a first stage's labels.
    #[serde(default)]
    pub label_slices: SeparateZ,
    /// Axes that are mirrored in use where nothing else is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror_axes: Vec<usize>,
    /// Labels of stage 1 that are further input channels, as masks (a cascade).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous_labels: Vec<u16>,
    /// Of structures that are regions which lie in one another their labels, the one that wins last
    /// (`regions_class_order`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<u16>,
}

/// Which way a volume lies before the network's transposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axes {
    /// As it is stored (nnU-Net's `SimpleITKIO` and `NibabelIO`).
    #[default]
    Stored,
    /// Turned to RAS (`NibabelIOWithReorient`, TotalSegmentator).
    Ras,
}

/// nnU-Net's normalisation schemes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NnunetNormalisation {
    /// `CTNormalization`: clamped to the window, minus the mean, divided by the standard deviation.
    Ct {
        low_hu: f32,
        high_hu: f32,
        mean_hu: f32,
        sd_hu: f32,
    },
    /// `ZScoreNormalization`: with the volume's own mean and standard deviation, of what is not 0 if `masked`.
    ZScore { masked: bool },
    /// `NoNormalization`.
    None {},
    /// `RescaleTo01Normalization`: the lowest value becomes 0 and the highest 1.
    RescaleTo01 {},
    /// `RGBTo01Normalization`: divided by 255.
    RgbTo01 {},
}

impl NnunetNormalisation {
    /// Whether values can be clamped and divided so.
    fn is_usable(&self) -> bool {
        let Self::Ct {
            low_hu,
            high_hu,
            mean_hu,
            sd_hu,
        } = *self
        else {
            return true;
        };
        let numbers = [low_hu, high_hu, mean_hu, sd_hu];
        numbers.iter().all(|number| number.is_finite()) && low_hu <= high_hu && sd_hu >= 0.0
    }
}

/// Whether volumes are resampled slice by slice across their thickest axis (`force_separate_z`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeparateZ {
    /// Where one of the two spacings is anisotropic (`null`).
    #[default]
    Auto,
    /// Across the thickest axis of the spacing before (`true`).
    Always,
    Never,
}

fn untransposed() -> [usize; 3] {
    [0, 1, 2]
}

fn is_untransposed(transpose: &[usize; 3]) -> bool {
    *transpose == untransposed()
}

/// A spacing whose largest side is more than this many times its smallest is anisotropic (`ANISO_THRESHOLD`).
const ANISOTROPIC: f64 = 3.0;

impl SeparateZ {
    /// The axis across which a volume is resampled slice by slice from one spacing to another, if it is
    /// (`determine_do_sep_z_and_axis`); axes in any order, but the same for both.
    pub fn axis(self, from_mm: [f64; 3], to_mm: [f64; 3]) -> Option<usize> {
        match self {
            Self::Never => None,
            Self::Always => thickest(from_mm),
            Self::Auto if is_anisotropic(from_mm) => thickest(from_mm),
            Self::Auto if is_anisotropic(to_mm) => thickest(to_mm),
            Self::Auto => None,
        }
    }
}

fn is_anisotropic(spacing_mm: [f64; 3]) -> bool {
    let most = spacing_mm.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let least = spacing_mm.into_iter().fold(f64::INFINITY, f64::min);
    most / least > ANISOTROPIC
}

/// The one axis with the largest spacing; none if several have it.
fn thickest(spacing_mm: [f64; 3]) -> Option<usize> {
    let most = spacing_mm.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let mut thick = (0..3).filter(|axis| spacing_mm[*axis] == most);
    match (thick.next(), thick.next()) {
        (Some(axis), None) => Some(axis),
        _ => None,
    }
}

impl NnunetConfig {
    /// Which way the network's axes point in a volume on `source`.
    pub fn orientation(&self, source: &Grid) -> Orientation {
        let before = match self.axes {
            Axes::Stored => source.orientation(),
            Axes::Ras => Orientation::RAS,
        };
        // Axes are counted from the other end there.
        let from = [0, 1, 2].map(|axis| 2 - self.transpose[2 - axis].min(2));
        Orientation {
            axes: from.map(|axis| before.axes[axis]),
            flipped: from.map(|axis| before.flipped[axis]),
        }
    }

    /// What cannot work about it, if anything.
    pub fn problem(&self) -> Option<&'static str> {
        let mut sorted = self.transpose;
        sorted.sort_unstable();
        let previous: BTreeSet<u16> = self.previous_labels.iter().copied().collect();
        let checks = [
            (
                sorted == untransposed(),
                "nnunet.transpose must name each of 0, 1 and 2 once",
            ),
            (
                self.mirror_axes.iter().all(|axis| *axis < 3)
                    && (1..self.mirror_axes.len())
                        .all(|at| !self.mirror_axes[..at].contains(&self.mirror_axes[at])),
                "nnunet.mirror_axes must lie between 0 and 2, each once",
            ),
            (
                !previous.contains(&0)
                    && !previous.contains(&u16::MAX)
                    && previous.len() == self.previous_labels.len(),
                "nnunet.previous_labels must lie between 1 and 65534, each once",
            ),
            (
                self.normalisation.is_usable(),
                "nnunet.normalisation needs finite numbers, low_hu not above high_hu, and sd_hu not below 0",
            ),
        ];
        let broken = checks.iter().find(|(holds, _)| !holds);
        broken.map(|(_, problem)| *problem)
    }
}

/// Spacing along x, y, z as a NIfTI header holds it, in 32 bits: without the dust of an affine's columns.
pub fn header_spacing_mm(grid: &Grid) -> [f64; 3] {
    grid.spacing_mm().map(|mm| f64::from(mm as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Golden values: nnunetv2 2.8.1, determine_do_sep_z_and_axis(None, from, to).
    #[test]
    fn slices_are_separate_where_nnu_net_says_so() {
        let auto = |from, to| SeparateZ::Auto.axis(from, to);
        assert_eq!(auto([5.0, 1.0, 1.0], [1.0; 3]), Some(0));
        assert_eq!(auto([3.0, 1.0, 1.0], [1.0; 3]), None);
        assert_eq!(auto([1.0; 3], [1.0, 1.0, 4.0]), Some(2));
        assert_eq!(auto([0.24, 1.25, 1.25], [1.0; 3]), None);
        assert_eq!(auto([1.0, 6.0, 1.0], [9.0, 1.0, 1.0]), Some(1));
        assert_eq!(SeparateZ::Never.axis([9.0, 1.0, 1.0], [1.0; 3]), None);
        assert_eq!(SeparateZ::Always.axis([2.0, 1.0, 1.0], [1.0; 3]), Some(0));
        assert_eq!(SeparateZ::Always.axis([1.0; 3], [1.0; 3]), None);
    }

    fn nnunet(axes: Axes, transpose: [usize; 3]) -> NnunetConfig {
        NnunetConfig {
            axes,
            transpose,
            normalisation: NnunetNormalisation::None {},
            image_slices: SeparateZ::Auto,
            logit_slices: SeparateZ::Auto,
            label_slices: SeparateZ::Auto,
            mirror_axes: Vec::new(),
            previous_labels: Vec::new(),
            regions: Vec::new(),
        }
    }

    #[test]
    fn numbers_that_nothing_can_be_computed_with_are_refused() {
        let problem = |low_hu, high_hu, mean_hu, sd_hu| {
            let normalisation = NnunetNormalisation::Ct {
                low_hu,
                high_hu,
                mean_hu,
                sd_hu,
            };
            let config = NnunetConfig {
                normalisation,
                ..nnunet(Axes::Ras, [0, 1, 2])
            };
            config.problem().is_some()
        };
        // One intensity alone is nnU-Net's to allow.
        assert!(!problem(-100.0, 300.0, 50.0, 80.0) && !problem(5.0, 5.0, 5.0, 0.0));
        for hostile in [
            problem(f32::NAN, 300.0, 50.0, 80.0),
            problem(300.0, -100.0, 50.0, 80.0),
            problem(-100.0, 300.0, f32::INFINITY, 80.0),
            problem(-100.0, 300.0, 50.0, -1.0),
        ] {
            assert!(hostile);
        }
        let twice = NnunetConfig {
            previous_labels: vec![3, 3],
            ..nnunet(Axes::Ras, [0, 1, 2])
        };
        assert!(twice.problem().unwrap().contains("previous_labels"));
    }

    #[test]
    fn transposed_axes_are_those_of_the_file() {
        let lps = Grid::with_spacing([2, 3, 4], [1.0; 3]).reoriented("LPS".parse().unwrap());
        let of = |axes, transpose| nnunet(axes, transpose).orientation(&lps).to_string();
        assert_eq!(of(Axes::Stored, [0, 1, 2]), "LPS");
        assert_eq!(of(Axes::Ras, [0, 1, 2]), "RAS");
        // (z, y, x) becomes (x, z, y): along x, y, z of the network lie the file's y, z, x.
        assert_eq!(of(Axes::Stored, [2, 0, 1]), "PSL");
        assert!(nnunet(Axes::Ras, [0, 0, 1]).problem().is_some());
        assert!(nnunet(Axes::Ras, [2, 0, 1]).problem().is_none());
    }
}
