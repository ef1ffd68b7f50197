//! Stage recipes: everything that decides how one stage is trained and used, in one TOML file.

pub mod keep;
pub mod layer_table;
mod load;
mod nnunet;
pub mod output_maps;
mod patch_size;
mod patience;
mod postprocessing;
mod sliding_window;
mod tracking;
mod training;
mod validate;
mod without_effect;

pub use nnunet::{Axes, NnunetConfig, NnunetNormalisation, SeparateZ, header_spacing_mm};
pub use patch_size::PatchSize;
pub use postprocessing::PostprocessingConfig;
pub use sliding_window::{Blending, SlidingConfig};
pub use tracking::{TrackedCheckpoints, TrackingConfig};
pub use training::{
    CurriculumConfig, EarlyStoppingConfig, PlateauConfig, Schedule, SliceSampling, TrainingConfig,
};

use serde::{Deserialize, Serialize};

use ctseg_engine::losses::Outputs;
use ctseg_engine::networks::NetworkConfig;
use ctseg_image::preprocess::channels::Window;
use ctseg_image::preprocess::normalisation::{Normalisation, Scaling};
use ctseg_image::resample::{Interpolation, Restoration};
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
    /// What the network's maps mean, in training and in use.
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
    /// What becomes of the Hounsfield units in the windows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalisation: Normalisation,
    /// In how many parts the patients are split; each part in turn is held out for validation.
    pub folds: usize,
    /// The folds that are trained; all of them where nothing is said. Their models are averaged in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_folds: Option<Vec<usize>>,
    /// Whether, when the folds are trained, each case is predicted by the network that did not see it.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub out_of_fold: bool,
    /// What is generated to train on where no dataset is named.
    #[serde(default)]
    pub generated_data: GeneratedData,
    pub network: NetworkConfig,
    pub training: TrainingConfig,
    #[serde(default)]
    pub roi: RoiConfig,
    #[serde(default)]
    pub jitter: JitterConfig,
    /// How patches cover an input in use (networks on volumes).
    #[serde(default, skip_serializing_if = "is_default")]
    pub sliding: SlidingConfig,
    #[serde(default, skip_serializing_if = "is_default")]
    pub postprocessing: PostprocessingConfig,
    #[serde(default, skip_serializing_if = "is_default")]
    pub tracking: TrackingConfig,
    /// Of imported models: what nnU-Net does otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nnunet: Option<NnunetConfig>,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// Data that ctseg makes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GeneratedData {
    /// CT-like volumes of the torso.
    #[default]
    Phantoms,
    /// Single CT-like slices of the upper abdomen.
    Slices,
}

/// What the network marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// All structures together, as one.
    Union,
    /// Each structure in a map of its own.
    #[default]
    Each,
}

/// The part of the volume a stage works on.
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
    /// Components smaller than this share of the largest are taken for noise.
    pub smallest_component: f64,
    pub on_border: OnBorder,
}

/// What happens when the region touches the end of the scan, where anatomy goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBorder {
    /// The region is kept (it already reaches the end) and the case's sidecar says so.
    #[default]
    Note,
    /// Stage 2 works on the whole volume, and the sidecar says so.
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

/// How wrong stage 1 is made in training, as it may be in use: how far the region of interest is moved and
/// grown or shrunk at random, each side, and how often its probabilities are missing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JitterConfig {
    pub shift_mm: f64,
    pub grow_mm: f64,
    /// Share of the slices whose prior is 0 everywhere.
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
    /// The folds that are trained.
    pub fn trained_folds(&self) -> Vec<usize> {
        self.train_folds
            .clone()
            .unwrap_or_else(|| (0..self.folds).collect())
    }

    /// How each of the image channels shows `volume`.
    pub fn scalings(&self, volume: &Volume) -> Vec<Scaling> {
        self.normalisation.scalings(&self.windows_hu, volume)
    }

    /// From the lowest to the highest of the Hounsfield units that the image channels show; none where they show other
    /// images than CT, which are normalised by themselves.
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

    /// What the image channels show, in one line.
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

    /// Spacing along x, y, z of the network's grid for a volume whose spacing along the network's axes is
    /// `own_mm`; slices keep their distance.
    pub fn nnunet_spacing_mm(&self, own_mm: [f64; 3]) -> [f64; 3] {
        let [x, y, z] = self.spacing_mm;
        match self.network.dimensions() {
            2 => [x, y, own_mm[2]],
            _ => [x, y, z],
        }
    }

    /// How logits become labels of a volume on `source`.
    pub fn restoration(&self, source: &Grid) -> Restoration {
        let Some(nnunet) = &self.nnunet else {
            return Restoration::default();
        };
        let own_mm = header_spacing_mm(&source.reoriented(nnunet.orientation(source)));
        let network_mm = self.nnunet_spacing_mm(own_mm);
        Restoration {
            nearest: nnunet.logit_slices.axis(network_mm, own_mm),
            regions: nnunet.regions.clone(),
        }
    }

    /// Whether the network looks at patches of a fixed size, blended where they overlap; else at whole slices.
    pub fn by_patches(&self) -> bool {
        self.network.dimensions() == 3 || self.nnunet.is_some()
    }

    /// What an epoch or a volume is counted in.
    pub fn unit(&self) -> &'static str {
        match self.by_patches() {
            false => "slices",
            true => "patches",
        }
    }
}

/// A TOML error in one line, with its place.
pub fn one_line(error: &toml::de::Error) -> String {
    error
        .to_string()
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
