//! Stage recipes: all settings for training and inference of one stage, in one TOML file.

pub mod keep;
pub mod layer_table;
mod load;
mod nnunet;
pub mod output_maps;
mod patch_size;
mod postprocessing;
mod scaled_patience;
pub mod schedule;
mod sliding_window;
mod tracking;
mod training;
mod validate;
mod without_effect;

pub use nnunet::{Axes, NnunetConfig, NnunetNormalisation, SeparateZ, header_spacing_mm};
pub use patch_size::PatchSize;
pub use postprocessing::PostprocessingConfig;
pub use schedule::Schedule;
pub use sliding_window::{Blending, SlidingConfig};
pub use tracking::{TrackedCheckpoints, TrackingConfig};
pub use training::{
    CurriculumConfig, EarlyStoppingConfig, PlateauConfig, SliceSampling, TrainingConfig,
};

use serde::{Deserialize, Serialize};

use ctseg_engine::losses::Outputs;
use ctseg_engine::networks::NetworkConfig;
use ctseg_image::preprocess::channels::Window;
use ctseg_image::preprocess::normalisation::{Normalisation, Scaling};
use ctseg_image::resample::{Interpolation, RestoreOptions};
use ctseg_image::space::{Grid, Volume};

/// One stage, as a file under `stages/` describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub name: String,
    /// 1 finds the region of interest, 2 gives the final structures.
    pub stage: u8,
    #[serde(default)]
    pub structures: Target,
    /// What the network's output maps mean, in training and inference.
    #[serde(default, skip_serializing_if = "is_default")]
    pub outputs: Outputs,
    #[serde(default)]
    pub region: Region,
    /// Whether stage 1's probabilities are an input channel (only with `region = "roi"`).
    #[serde(default)]
    pub prior: bool,
    /// Spacing of the network's grid along x (left–right), y, z.
    pub spacing_mm: [f64; 3],
    #[serde(default = "default_interpolation")]
    pub interpolation: Interpolation,
    #[serde(default = "default_windows")]
    pub windows_hu: Vec<Window>,
    /// Normalisation of the windowed Hounsfield units.
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalisation: Normalisation,
    /// Number of cross-validation folds; each in turn is held out for validation.
    pub folds: usize,
    /// The folds to train; default: all. Their models are averaged in inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_folds: Option<Vec<usize>>,
    /// Whether to write out-of-fold predictions after training: each case by the network that did not see it.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub out_of_fold: bool,
    /// The generated dataset to train on if no dataset is named.
    #[serde(default)]
    pub generated_data: GeneratedData,
    pub network: NetworkConfig,
    pub training: TrainingConfig,
    #[serde(default)]
    pub roi: RoiConfig,
    #[serde(default)]
    pub jitter: JitterConfig,
    /// Sliding-window inference (networks on volumes).
    #[serde(default, skip_serializing_if = "is_default")]
    pub sliding: SlidingConfig,
    #[serde(default, skip_serializing_if = "is_default")]
    pub postprocessing: PostprocessingConfig,
    #[serde(default, skip_serializing_if = "is_default")]
    pub tracking: TrackingConfig,
    /// Imported models: settings specific to nnU-Net.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nnunet: Option<NnunetConfig>,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// Data that ctseg can generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GeneratedData {
    /// CT-like volumes of the torso.
    #[default]
    Phantoms,
    /// Single CT-like slices of the upper abdomen.
    Slices,
}

/// What the network segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// All structures merged into one.
    Union,
    /// One output map per structure.
    #[default]
    Each,
}

/// The part of the volume that a stage works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    #[default]
    Whole,
    /// The region of interest that stage 1 found.
    Roi,
}

/// How probabilities become a region of interest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoiConfig {
    pub threshold: f32,
    /// Added on each side along x, y, z.
    pub margin_mm: [f64; 3],
    /// Components smaller than this share of the largest are removed as noise.
    pub smallest_component: f64,
    pub on_border: OnBorder,
}

/// What to do if the region touches the border of the scan, where anatomy may continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBorder {
    /// Keep the region and note it in the case's sidecar.
    #[default]
    Note,
    /// Run stage 2 on the whole volume and note it in the sidecar.
    Whole,
}

impl Default for RoiConfig {
    fn default() -> Self {
        Self {
            threshold: 0.1,
            margin_mm: [24.0, 24.0, 48.0],
            smallest_component: 0.05,
            on_border: OnBorder::Note,
        }
    }
}

/// Simulates errors of stage 1 in training: random shift, and random growth or shrinking of each side, of the region of
/// interest, and missing probabilities.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JitterConfig {
    pub shift_mm: f64,
    pub grow_mm: f64,
    /// Share of the slices whose prior is set to 0.
    pub drop_prior: f64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_interpolation() -> Interpolation {
    Interpolation::Cubic
}

fn default_windows() -> Vec<Window> {
    vec![Window::default()]
}

impl Recipe {
    pub fn trained_folds(&self) -> Vec<usize> {
        self.train_folds
            .clone()
            .unwrap_or_else(|| (0..self.folds).collect())
    }

    /// The scaling of each image channel for `volume`.
    pub fn scalings(&self, volume: &Volume) -> Vec<Scaling> {
        self.normalisation.scalings(&self.windows_hu, volume)
    }

    /// The Hounsfield units covered by the image channels, lowest to highest; none for images other than CT, which are
    /// normalised per volume.
    pub fn ct_window(&self) -> Option<Window> {
        let [low_hu, high_hu] = match self.nnunet.as_ref().map(|nnunet| nnunet.normalisation) {
            Some(NnunetNormalisation::Ct {
                low_hu, high_hu, ..
            }) => [low_hu, high_hu],
            Some(_) => return None,
            None if self.normalisation == (Normalisation::ZScore {}) => return None,
            None => self
                .windows_hu
                .iter()
                .fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], window| {
                    [low.min(window.low_hu), high.max(window.high_hu)]
                }),
        };
        Some(Window { low_hu, high_hu })
    }

    /// The intensity windows and normalisation, in one line.
    pub fn described_intensities(&self) -> String {
        let windows: Vec<String> = self
            .windows_hu
            .iter()
            .map(|window| format!("{} to {}", window.low_hu, window.high_hu))
            .collect();
        let how = self.normalisation.described();
        format!("{} HU, {how}", windows.join(" and "))
    }

    /// Input channels of the network.
    pub fn channels(&self) -> usize {
        match &self.nnunet {
            Some(nnunet) => 1 + nnunet.previous_labels.len(),
            None => self.windows_hu.len() + usize::from(self.prior),
        }
    }

    /// Spacing along x, y, z of the network's grid for a volume with spacing `own_mm` along the network's axes;
    /// 2D networks keep the slice spacing.
    pub fn nnunet_spacing_mm(&self, own_mm: [f64; 3]) -> [f64; 3] {
        let [x, y, z] = self.spacing_mm;
        match self.network.dimensions() {
            2 => [x, y, own_mm[2]],
            _ => [x, y, z],
        }
    }

    /// How logits are converted to labels on the grid `source`.
    pub fn restoration(&self, source: &Grid) -> RestoreOptions {
        let Some(nnunet) = &self.nnunet else {
            return RestoreOptions::default();
        };
        let own_mm = header_spacing_mm(&source.reoriented(nnunet.orientation(source)));
        let network_mm = self.nnunet_spacing_mm(own_mm);
        RestoreOptions {
            nearest: nnunet.logit_slices.axis(network_mm, own_mm),
            regions: nnunet.regions.clone(),
        }
    }

    /// Whether the network takes patches of a fixed size, blended where they overlap, rather than whole slices.
    pub fn is_patch_based(&self) -> bool {
        self.network.dimensions() == 3 || self.nnunet.is_some()
    }

    /// The unit that progress is counted in.
    pub fn unit(&self) -> &'static str {
        match self.is_patch_based() {
            false => "slices",
            true => "patches",
        }
    }
}

/// A TOML error in one line, with its position.
pub fn one_line(error: &toml::de::Error) -> String {
    error
        .to_string()
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
