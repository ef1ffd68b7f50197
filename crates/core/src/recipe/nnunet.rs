//! nnU-Net's behaviour where ctseg's differs: `[nnunet]` of an imported model's recipe.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use ctseg_image::space::{Grid, Orientation};

/// Settings of nnU-Net 2.8; axes are the network's (z, y, x) unless noted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NnunetConfig {
    pub axes: Axes,
    /// For each network axis the file's axis (`transpose_forward`).
    #[serde(default = "untransposed", skip_serializing_if = "is_untransposed")]
    pub transpose: [usize; 3],
    pub normalisation: NnunetNormalisation,
    /// Whether the volume is resampled slice by slice.
    #[serde(default)]
    pub image_slices: SeparateZ,
    /// The same for resampling logits back.
    #[serde(default)]
    pub logit_slices: SeparateZ,
    /// The same for a first stage's labels.
    #[serde(default)]
    pub label_slices: SeparateZ,
    /// Default axes of test-time mirroring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror_axes: Vec<usize>,
    /// Labels of stage 1 that are additional input channels, as masks (cascade).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous_labels: Vec<u16>,
    /// For nested regions: their labels, in the order they are written; later ones win
    /// (`regions_class_order`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<u16>,
}

/// Orientation of a volume before the network's transposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axes {
    /// As stored (nnU-Net's `SimpleITKIO` and `NibabelIO`).
    #[default]
    Stored,
    /// Reoriented to RAS (`NibabelIOWithReorient`, TotalSegmentator).
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
    /// `ZScoreNormalization`: by the volume's mean and standard deviation, over its non-zero voxels if `masked`.
    ZScore { masked: bool },
    /// `NoNormalization`.
    None {},
    /// `RescaleTo01Normalization`: the lowest value becomes 0 and the highest 1.
    RescaleTo01 {},
    /// `RGBTo01Normalization`: divided by 255.
    RgbTo01 {},
}

impl NnunetNormalisation {
    /// Whether the values are finite and consistent.
    fn is_valid(&self) -> bool {
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
    /// If either of the two spacings is anisotropic (`null`).
    #[default]
    Auto,
    /// Across the thickest axis of the original spacing (`true`).
    Always,
    Never,
}

fn untransposed() -> [usize; 3] {
    [0, 1, 2]
}

fn is_untransposed(transpose: &[usize; 3]) -> bool {
    *transpose == untransposed()
}

/// A spacing is anisotropic if its largest side exceeds this multiple of its smallest (`ANISO_THRESHOLD`).
const ANISOTROPIC: f64 = 3.0;

impl SeparateZ {
    /// The axis across which a volume is resampled slice by slice from one spacing to another, if any
    /// (`determine_do_sep_z_and_axis`); both spacings have the same axis order.
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

/// The axis with the largest spacing; none if several share it.
fn thickest(spacing_mm: [f64; 3]) -> Option<usize> {
    let most = spacing_mm.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let mut thick = (0..3).filter(|axis| spacing_mm[*axis] == most);
    match (thick.next(), thick.next()) {
        (Some(axis), None) => Some(axis),
        _ => None,
    }
}

impl NnunetConfig {
    /// The orientation of the network's axes in a volume on `source`.
    pub fn orientation(&self, source: &Grid) -> Orientation {
        let before = match self.axes {
            Axes::Stored => source.orientation(),
            Axes::Ras => Orientation::RAS,
        };
        // `Orientation` counts axes as x, y, z, `transpose` as z, y, x.
        let from = [0, 1, 2].map(|axis| 2 - self.transpose[2 - axis].min(2));
        Orientation {
            axes: from.map(|axis| before.axes[axis]),
            flipped: from.map(|axis| before.flipped[axis]),
        }
    }

    /// The first invalid setting, if any.
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
                "nnunet.mirror_axes must be from 0 to 2, each at most once",
            ),
            (
                !previous.contains(&0)
                    && !previous.contains(&u16::MAX)
                    && previous.len() == self.previous_labels.len(),
                "nnunet.previous_labels must be from 1 to 65534, each at most once",
            ),
            (
                self.normalisation.is_valid(),
                "nnunet.normalisation needs finite numbers, low_hu not above high_hu, and sd_hu not below 0",
            ),
        ];
        let broken = checks.iter().find(|(holds, _)| !holds);
        broken.map(|(_, problem)| *problem)
    }
}

/// Spacing along x, y, z rounded to 32 bits as in a NIfTI header, without rounding errors of the affine.
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
    fn invalid_numbers_are_refused() {
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
        // nnU-Net allows a constant intensity.
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
