//! What the augmentation of a recipe can be told.

use serde::{Deserialize, Serialize};

/// Random changes of training patches, as written under `[training.augmentation]`. What is not written is
/// nnU-Net v2's (Isensee et al., Nature Methods 2021), except where noted. Probabilities of intensity
/// changes are for each image channel by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// `false` switches everything off and keeps the settings.
    pub enabled: bool,
    pub rotation_probability: f64,
    /// Angles are drawn from −this to +this. nnU-Net turns single slices by up to 180°, but patients lie
    /// on their back, so this is its range for volumes.
    pub rotation_degrees: f64,
    /// The same out of the axial plane, about the left–right and the front–back axis, in volumes.
    pub tilt_degrees: f64,
    pub scale_probability: f64,
    /// Smallest and largest factor; above 1 structures grow. Drawn log-uniformly, so that structures
    /// shrink as often as they grow.
    pub scale: [f64; 2],
    /// Axes that are mirrored in every second patch. None unless told, unlike nnU-Net: organs lie where they
    /// lie. Mirrored along x, left and right structures change their labels, see `mirror_pairs`.
    pub flip_axes: Vec<FlipAxis>,
    /// Names of structures that change places when left and right do. Pairs whose names differ in nothing
    /// but the side (`parotid_left` and `parotid_right`, `Eye_L` and `Eye_R`) are known without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirror_pairs: Vec<[String; 2]>,
    pub noise_probability: f64,
    /// Standard deviations of Gaussian noise as shares of the window's width. Below nnU-Net's, whose unit
    /// is the standard deviation of the foreground.
    pub noise_sd: [f64; 2],
    /// nnU-Net draws per patch (0.2) and per channel (0.5).
    pub blur_probability: f64,
    /// Standard deviations of Gaussian smoothing in pixels.
    pub blur_sigma_pixels: [f64; 2],
    pub brightness_probability: f64,
    /// Factors.
    pub brightness: [f64; 2],
    pub contrast_probability: f64,
    /// Factors of the distance from the mean.
    pub contrast: [f64; 2],
    /// nnU-Net draws per patch (0.25) and per channel (0.5).
    pub low_resolution_probability: f64,
    /// Shares of the pixels along each axis that are kept.
    pub low_resolution: [f64; 2],
    /// How often everything on one side of a random straight line becomes air, as where a scan, a bed's
    /// gantry or a dose mask ends: structures are then to be found without their surroundings. Not
    /// nnU-Net's; 0 unless told.
    pub field_of_view_probability: f64,
    pub gamma_probability: f64,
    /// The same on inverted values; both may happen to one channel.
    pub inverted_gamma_probability: f64,
    /// Exponents.
    pub gamma: [f64; 2],
}

/// An axis of a volume in RAS order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlipAxis {
    /// Left–right.
    X,
    /// Front–back.
    Y,
    /// Feet–head, in volumes.
    Z,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            enabled: true,
            rotation_probability: 0.2,
            rotation_degrees: 30.0,
            tilt_degrees: 30.0,
            scale_probability: 0.2,
            scale: [0.7, 1.4],
            flip_axes: Vec::new(),
            mirror_pairs: Vec::new(),
            noise_probability: 0.1,
            noise_sd: [0.0, 0.05],
            blur_probability: 0.1,
            blur_sigma_pixels: [0.5, 1.0],
            brightness_probability: 0.15,
            brightness: [0.75, 1.25],
            contrast_probability: 0.15,
            contrast: [0.75, 1.25],
            low_resolution_probability: 0.125,
            low_resolution: [0.5, 1.0],
            field_of_view_probability: 0.0,
            gamma_probability: 0.3,
            inverted_gamma_probability: 0.1,
            gamma: [0.7, 1.5],
        }
    }
}

impl Augmentation {
    /// No change at all, to switch single ones on from.
    pub fn none() -> Self {
        Self {
            rotation_probability: 0.0,
            scale_probability: 0.0,
            noise_probability: 0.0,
            blur_probability: 0.0,
            brightness_probability: 0.0,
            contrast_probability: 0.0,
            low_resolution_probability: 0.0,
            gamma_probability: 0.0,
            inverted_gamma_probability: 0.0,
            ..Self::default()
        }
    }

    /// What about these settings cannot work, if anything, in one line.
    pub fn problem(&self) -> Option<&'static str> {
        let probabilities = [
            self.rotation_probability,
            self.scale_probability,
            self.noise_probability,
            self.blur_probability,
            self.brightness_probability,
            self.contrast_probability,
            self.low_resolution_probability,
            self.field_of_view_probability,
            self.gamma_probability,
            self.inverted_gamma_probability,
        ];
        let within = |[low, high]: [f64; 2], least: f64, most: f64| {
            least <= low && low <= high && high <= most
        };
        let checks = [
            (
                probabilities.iter().all(|p| (0.0..=1.0).contains(p)),
                "training.augmentation: every probability must lie in [0, 1]",
            ),
            (
                (0.0..=180.0).contains(&self.rotation_degrees),
                "training.augmentation.rotation_degrees must lie in [0, 180]",
            ),
            (
                (0.0..=180.0).contains(&self.tilt_degrees),
                "training.augmentation.tilt_degrees must lie in [0, 180]",
            ),
            (
                within(self.scale, 0.1, 10.0),
                "training.augmentation.scale must be [low, high] within 0.1 to 10",
            ),
            (
                within(self.noise_sd, 0.0, 1.0),
                "training.augmentation.noise_sd must be [low, high] within 0 to 1",
            ),
            (
                within(self.blur_sigma_pixels, 0.0, 16.0),
                "training.augmentation.blur_sigma_pixels must be [low, high] within 0 to 16",
            ),
            (
                within(self.brightness, 0.0, 10.0) && within(self.contrast, 0.0, 10.0),
                "training.augmentation.brightness and contrast must be [low, high] within 0 to 10",
            ),
            (
                within(self.low_resolution, 0.05, 1.0),
                "training.augmentation.low_resolution must be [low, high] within 0.05 to 1",
            ),
            (
                within(self.gamma, 0.1, 10.0),
                "training.augmentation.gamma must be [low, high] within 0.1 to 10",
            ),
        ];
        checks
            .iter()
            .find(|(holds, _)| !holds)
            .map(|(_, problem)| *problem)
    }
}
