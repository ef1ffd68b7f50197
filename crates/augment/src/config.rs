//! Augmentation settings of a recipe.

use serde::{Deserialize, Serialize};

/// Random augmentation of training patches, as under `[training.augmentation]`. Defaults are nnU-Net v2's (Isensee et
/// al., Nature Methods 2021), except where noted. Probabilities of intensity changes are per image channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// `false` disables all augmentation but keeps the settings.
    pub enabled: bool,
    pub rotation_probability: f64,
    /// Angles are uniform in ± this range. nnU-Net rotates single slices by up to 180°; patients lie on their back,
    /// so this is its range for volumes.
    pub rotation_degrees: f64,
    /// Range of rotation about the left–right and front–back axes; volumes only.
    pub tilt_degrees: f64,
    pub scale_probability: f64,
    /// Smallest and largest factor; above 1, structures grow. Log-uniform, so that structures shrink as often as they
    /// grow.
    pub scale: [f64; 2],
    /// Probability of elastic deformation (as in nnU-Net v1), in one resampling with rotation and scaling. Default 0.
    pub elastic_probability: f64,
    /// Smoothness: standard deviation of the Gaussian that filters the noise.
    pub elastic_sigma_mm: [f64; 2],
    /// Largest displacement along each axis; at most sigma, to avoid folding.
    pub elastic_magnitude_mm: [f64; 2],
    /// Axes flipped with probability 0.5. None by default, unlike nnU-Net: anatomy is not symmetric. Flips along x
    /// swap the labels of left and right structures, see `mirror_pairs`.
    pub flip_axes: Vec<FlipAxis>,
    /// Pairs of structures that swap under left–right flips. Pairs whose names differ only in the side
    /// (`parotid_left` and `parotid_right`, `Eye_L` and `Eye_R`) are detected automatically.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirror_pairs: Vec<[String; 2]>,
    pub noise_probability: f64,
    /// Standard deviation of Gaussian noise as a fraction of the window width. Lower than nnU-Net's, which is
    /// relative to the standard deviation of the foreground.
    pub noise_sd: [f64; 2],
    /// nnU-Net draws per patch (0.2), then per channel (0.5).
    pub blur_probability: f64,
    /// Standard deviation of the Gaussian blur in pixels.
    pub blur_sigma_pixels: [f64; 2],
    pub brightness_probability: f64,
    /// Factor.
    pub brightness: [f64; 2],
    pub contrast_probability: f64,
    /// Factor on the distance from the mean.
    pub contrast: [f64; 2],
    /// nnU-Net draws per patch (0.25), then per channel (0.5).
    pub low_resolution_probability: f64,
    /// Fraction of the pixels kept along each axis.
    pub low_resolution: [f64; 2],
    /// Probability that everything on one side of a random straight line becomes air, as at the edge of a scan or a
    /// dose mask: the network learns to find structures without their surroundings. Not in nnU-Net. Default 0.
    pub field_of_view_probability: f64,
    /// Probability that all Hounsfield units of a patch are shifted by a constant before windowing, as by a
    /// differently calibrated scanner. Not in nnU-Net. Default 0.
    pub hu_shift_probability: f64,
    /// In Hounsfield units.
    pub hu_shift: [f64; 2],
    /// Probability of metal with streaks, before windowing. An imitation, see `streaks.rs`. Not in nnU-Net. Default
    /// 0.
    pub metal_probability: f64,
    /// Number of metal pieces.
    pub metal_points: [usize; 2],
    pub metal_radius_mm: [f64; 2],
    /// Strength of a streak beside the metal, in Hounsfield units.
    pub metal_streak_hu: [f64; 2],
    /// Probability of coarse dropout. Not in nnU-Net. Default 0.
    pub coarse_dropout_probability: f64,
    /// Number of boxes.
    pub coarse_dropout_boxes: [usize; 2],
    /// Side of a box as a fraction of the patch's side.
    pub coarse_dropout_size: [f64; 2],
    /// Fill value: 0 is the low end of the window, 1 the high end.
    pub coarse_dropout_value: f64,
    pub gamma_probability: f64,
    /// Gamma on inverted values; both may apply to one channel.
    pub inverted_gamma_probability: f64,
    /// Exponent.
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

impl std::fmt::Display for FlipAxis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::X => "x",
            Self::Y => "y",
            Self::Z => "z",
        })
    }
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
            elastic_probability: 0.0,
            elastic_sigma_mm: [16.0, 40.0],
            elastic_magnitude_mm: [2.0, 8.0],
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
            hu_shift_probability: 0.0,
            hu_shift: [-25.0, 25.0],
            metal_probability: 0.0,
            metal_points: [1, 2],
            metal_radius_mm: [1.5, 5.0],
            metal_streak_hu: [150.0, 600.0],
            coarse_dropout_probability: 0.0,
            coarse_dropout_boxes: [1, 4],
            coarse_dropout_size: [0.05, 0.2],
            coarse_dropout_value: 0.0,
            gamma_probability: 0.3,
            inverted_gamma_probability: 0.1,
            gamma: [0.7, 1.5],
        }
    }
}

impl Augmentation {
    /// Starting point for enabling single changes: all of them off.
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

    /// One line that lists the enabled changes with their probabilities.
    pub fn described(&self) -> String {
        let changes = [
            ("rotation", self.rotation_probability),
            ("scale", self.scale_probability),
            ("elastic deformation", self.elastic_probability),
            ("noise", self.noise_probability),
            ("blur", self.blur_probability),
            ("brightness", self.brightness_probability),
            ("contrast", self.contrast_probability),
            ("low resolution", self.low_resolution_probability),
            ("gamma", self.gamma_probability),
            ("inverted gamma", self.inverted_gamma_probability),
            ("field of view", self.field_of_view_probability),
            ("HU shift", self.hu_shift_probability),
            ("metal", self.metal_probability),
            ("coarse dropout", self.coarse_dropout_probability),
        ];
        let mut parts: Vec<String> = changes
            .iter()
            .filter(|(_, probability)| self.enabled && *probability > 0.0)
            .map(|(name, probability)| format!("{name} {probability}"))
            .collect();
        if self.enabled && !self.flip_axes.is_empty() {
            let axes: Vec<String> = self.flip_axes.iter().map(FlipAxis::to_string).collect();
            parts.push(format!("mirroring along {} 0.5", axes.join(", ")));
        }
        match parts.is_empty() {
            true => "none".to_owned(),
            false => parts.join(" · "),
        }
    }

    /// The first invalid setting, in one line.
    pub fn problem(&self) -> Option<&'static str> {
        let probabilities = [
            self.rotation_probability,
            self.scale_probability,
            self.elastic_probability,
            self.noise_probability,
            self.blur_probability,
            self.brightness_probability,
            self.contrast_probability,
            self.low_resolution_probability,
            self.field_of_view_probability,
            self.hu_shift_probability,
            self.metal_probability,
            self.coarse_dropout_probability,
            self.gamma_probability,
            self.inverted_gamma_probability,
        ];
        let probable = probabilities.iter().all(|p| (0.0..=1.0).contains(p));
        first_violation(&[(
            probable,
            "training.augmentation: every probability must lie in [0, 1]",
        )])
        .or_else(|| self.problem_in_space())
        .or_else(|| self.problem_in_values())
        .or_else(|| self.problem_in_imitations())
    }

    fn problem_in_space(&self) -> Option<&'static str> {
        first_violation(&[
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
                within(self.elastic_sigma_mm, 1.0, 1000.0),
                "training.augmentation.elastic_sigma_mm must be [low, high] within 1 to 1000",
            ),
            (
                within(self.elastic_magnitude_mm, 0.0, self.elastic_sigma_mm[0]),
                "training.augmentation.elastic_magnitude_mm must be [low, high] from 0 to the lower elastic_sigma_mm; larger displacements would fold tissue",
            ),
        ])
    }

    fn problem_in_values(&self) -> Option<&'static str> {
        first_violation(&[
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
        ])
    }

    fn problem_in_imitations(&self) -> Option<&'static str> {
        let count = |[fewest, most]: [usize; 2]| 1 <= fewest && fewest <= most && most <= 64;
        first_violation(&[
            (
                within(self.hu_shift, -1000.0, 1000.0),
                "training.augmentation.hu_shift must be [low, high] within -1000 to 1000 HU",
            ),
            (
                count(self.metal_points),
                "training.augmentation.metal_points must be [fewest, most] within 1 to 64",
            ),
            (
                within(self.metal_radius_mm, 0.0, 100.0),
                "training.augmentation.metal_radius_mm must be [low, high] within 0 to 100",
            ),
            (
                within(self.metal_streak_hu, 0.0, 3000.0),
                "training.augmentation.metal_streak_hu must be [low, high] within 0 to 3000",
            ),
            (
                count(self.coarse_dropout_boxes),
                "training.augmentation.coarse_dropout_boxes must be [fewest, most] within 1 to 64",
            ),
            (
                within(self.coarse_dropout_size, 0.0, 1.0),
                "training.augmentation.coarse_dropout_size must be [low, high] within 0 to 1, fractions of the patch's sides",
            ),
            (
                (0.0..=1.0).contains(&self.coarse_dropout_value),
                "training.augmentation.coarse_dropout_value must lie in [0, 1], the ends of the window",
            ),
        ])
    }
}

/// Whether a range is ordered and lies within two bounds.
fn within([low, high]: [f64; 2], least: f64, most: f64) -> bool {
    least <= low && low <= high && high <= most
}

/// The message of the first check that fails.
fn first_violation(checks: &[(bool, &'static str)]) -> Option<&'static str> {
    let broken = checks.iter().find(|(holds, _)| !holds);
    broken.map(|(_, problem)| *problem)
}
