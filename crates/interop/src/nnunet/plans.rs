//! nnU-Net 2's `plans.json`: a configuration with everything that it inherits. Supports the newer style with an
//! `architecture`, and the older one with numbers of features and pooling kernels.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::source::read_json;
use ctseg_base::{Error, Result};

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Plans {
    #[serde(default)]
    pub dataset_name: String,
    #[serde(default)]
    pub plans_name: String,
    pub image_reader_writer: String,
    #[serde(default)]
    pub label_manager: Option<String>,
    #[serde(default = "untransposed")]
    pub transpose_forward: [usize; 3],
    configurations: Map<String, Value>,
    #[serde(alias = "foreground_intensity_properties_by_modality", default)]
    pub foreground_intensity_properties_per_channel: Map<String, Value>,
}

/// Statistics of the foreground's Hounsfield units.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Intensities {
    pub mean: f64,
    pub std: f64,
    pub percentile_00_5: f64,
    pub percentile_99_5: f64,
}

/// A configuration with everything that it inherits.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Configuration {
    pub patch_size: Vec<usize>,
    pub spacing: Vec<f64>,
    pub normalization_schemes: Vec<String>,
    #[serde(default)]
    pub use_mask_for_norm: Vec<bool>,
    #[serde(default = "default_preprocessor")]
    pub preprocessor_name: String,
    #[serde(default = "default_resampling")]
    pub resampling_fn_data: String,
    #[serde(default)]
    pub resampling_fn_data_kwargs: Resampling,
    #[serde(default = "default_resampling")]
    pub resampling_fn_seg: String,
    #[serde(default = "label_resampling")]
    pub resampling_fn_seg_kwargs: Resampling,
    #[serde(default = "default_resampling")]
    pub resampling_fn_probabilities: String,
    #[serde(default)]
    pub resampling_fn_probabilities_kwargs: Resampling,
    #[serde(default)]
    pub previous_stage: Option<String>,
    #[serde(default)]
    architecture: Option<Architecture>,
    #[serde(rename = "UNet_class_name", default)]
    class_name: Option<String>,
    #[serde(rename = "UNet_base_num_features", default)]
    base_features: usize,
    #[serde(default)]
    unet_max_num_features: usize,
    #[serde(default)]
    n_conv_per_stage_encoder: Vec<usize>,
    #[serde(default)]
    n_conv_per_stage_decoder: Vec<usize>,
    #[serde(default)]
    pool_op_kernel_sizes: Vec<Vec<usize>>,
    #[serde(default)]
    conv_kernel_sizes: Vec<Vec<usize>>,
}

/// Class and arguments of a network.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Architecture {
    pub network_class_name: String,
    pub arch_kwargs: Map<String, Value>,
}

/// Arguments of `resample_data_or_seg_to_shape`, with the function's own defaults.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resampling {
    #[serde(default)]
    pub is_seg: bool,
    #[serde(default = "cubic")]
    pub order: i64,
    #[serde(default)]
    pub order_z: i64,
    #[serde(default = "never")]
    pub force_separate_z: Option<bool>,
    #[serde(default)]
    separate_z_anisotropy_threshold: Option<f64>,
}

fn untransposed() -> [usize; 3] {
    [0, 1, 2]
}

fn default_preprocessor() -> String {
    "DefaultPreprocessor".to_owned()
}

fn default_resampling() -> String {
    RESAMPLING.to_owned()
}

fn cubic() -> i64 {
    3
}

#[allow(clippy::unnecessary_wraps)] // the field's type
fn never() -> Option<bool> {
    Some(false)
}

fn label_resampling() -> Resampling {
    Resampling {
        is_seg: true,
        order: 1,
        ..Resampling::default()
    }
}

impl Default for Resampling {
    fn default() -> Self {
        Self {
            is_seg: false,
            order: cubic(),
            order_z: 0,
            force_separate_z: never(),
            separate_z_anisotropy_threshold: None,
        }
    }
}

/// The only supported resampling function.
pub(super) const RESAMPLING: &str = "resample_data_or_seg_to_shape";

/// Maximum depth of inheritance between configurations.
const MAX_INHERITANCE: usize = 16;

impl Plans {
    pub(super) fn read(path: &Path) -> Result<Self> {
        typed(path, read_json(path)?, "an nnU-Net 2 plans file")
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.configurations.keys().map(String::as_str).collect()
    }

    /// A configuration; `path` names the plans in errors.
    ///
    /// # Errors
    /// An unknown configuration, cyclic inheritance, or keys of the wrong type.
    pub(super) fn configuration(&self, path: &Path, name: &str) -> Result<Configuration> {
        let mut chain = Vec::new();
        let mut next = Some(name.to_owned());
        while let Some(name) = next {
            let found = self.configurations.get(&name).and_then(Value::as_object);
            let found = found.ok_or_else(|| {
                Error::file(
                    path,
                    format!(
                        "has no configuration '{name}'; expected one of {}",
                        self.names().join(", ")
                    ),
                )
            })?;
            next = found
                .get("inherits_from")
                .and_then(Value::as_str)
                .map(str::to_owned);
            chain.push(found);
            if chain.len() > MAX_INHERITANCE {
                return Err(Error::file(
                    path,
                    format!("configuration '{name}' inherits from itself"),
                ));
            }
        }
        let mut merged = Map::new();
        for part in chain.into_iter().rev() {
            merged.extend(part.clone());
        }
        typed(
            path,
            Value::Object(merged),
            &format!("an nnU-Net 2 configuration '{name}'"),
        )
    }

    /// Foreground statistics of channel 0.
    pub(super) fn intensities(&self, path: &Path) -> Result<Intensities> {
        let found = self.foreground_intensity_properties_per_channel.get("0");
        let found = found.ok_or_else(|| {
            Error::file(
                path,
                "has no foreground_intensity_properties_per_channel for channel 0, which CTNormalization needs",
            )
        })?;
        typed(path, found.clone(), "intensities of channel 0")
    }
}

impl Configuration {
    /// The spacing ratios above which volumes are resampled slice by slice, where given.
    pub(super) fn anisotropy_thresholds(&self) -> impl Iterator<Item = f64> {
        let all = [
            self.resampling_fn_data_kwargs,
            self.resampling_fn_seg_kwargs,
            self.resampling_fn_probabilities_kwargs,
        ];
        all.into_iter()
            .filter_map(|kwargs| kwargs.separate_z_anisotropy_threshold)
    }

    /// The network's description, built from the older style's keys if necessary (as in
    /// `ConfigurationManager.__init__`).
    pub(super) fn architecture(&self, path: &Path) -> Result<Architecture> {
        if let Some(architecture) = &self.architecture {
            return Ok(architecture.clone());
        }
        let class = self.class_name.as_deref().ok_or_else(|| {
            Error::file(
                path,
                "describes no network; expected 'architecture' or 'UNet_class_name'",
            )
        })?;
        let (module, blocks) = match class {
            "PlainConvUNet" => ("unet", "n_conv_per_stage"),
            "ResidualEncoderUNet" => ("residual_unet", "n_blocks_per_stage"),
            other => return Err(unknown_network(path, other)),
        };
        let stages = self.n_conv_per_stage_encoder.len();
        let features: Vec<usize> = (0..stages as u32)
            .map(|stage| {
                let doubled = self
                    .base_features
                    .saturating_mul(2usize.saturating_pow(stage));
                doubled.min(self.unet_max_num_features)
            })
            .collect();
        let axes = self.patch_size.len();
        let kwargs = serde_json::json!({
            "n_stages": stages,
            "features_per_stage": features,
            "conv_op": format!("torch.nn.modules.conv.Conv{axes}d"),
            "kernel_sizes": self.conv_kernel_sizes,
            "strides": self.pool_op_kernel_sizes,
            blocks: self.n_conv_per_stage_encoder,
            "n_conv_per_stage_decoder": self.n_conv_per_stage_decoder,
            "conv_bias": true,
            "norm_op": format!("torch.nn.modules.instancenorm.InstanceNorm{axes}d"),
            "norm_op_kwargs": {"eps": 1e-5, "affine": true},
            "nonlin": "torch.nn.LeakyReLU",
        });
        Ok(Architecture {
            network_class_name: format!(
                "dynamic_network_architectures.architectures.{module}.{class}"
            ),
            arch_kwargs: kwargs.as_object().cloned().unwrap_or_default(),
        })
    }
}

pub(super) fn unknown_network(path: &Path, class: &str) -> Error {
    Error::file(
        path,
        format!(
            "has an unsupported network '{class}'; expected PlainConvUNet or ResidualEncoderUNet"
        ),
    )
}

/// Deserialises a value; `what` names the expected content in errors.
pub(super) fn typed<T: DeserializeOwned>(path: &Path, value: Value, what: &str) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|error| Error::file(path, format!("is not {what}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(configurations: &Value) -> Plans {
        let value = serde_json::json!({
            "image_reader_writer": "SimpleITKIO",
            "configurations": configurations,
        });
        typed(Path::new("plans.json"), value, "plans").unwrap()
    }

    #[test]
    fn configurations_inherit() {
        let plans = plans(&serde_json::json!({
            "3d_fullres": {"patch_size": [8, 8, 8], "spacing": [1, 1, 1], "normalization_schemes": ["CTNormalization"],
                "resampling_fn_data_kwargs": {"order": 3, "force_separate_z": null}},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
            "loop": {"inherits_from": "loop"},
        }));
        let path = Path::new("plans.json");
        let cascade = plans.configuration(path, "3d_cascade_fullres").unwrap();
        assert_eq!(cascade.patch_size, [8, 8, 8]);
        assert_eq!(cascade.previous_stage.as_deref(), Some("3d_lowres"));
        // Explicit null, and a missing key.
        assert_eq!(cascade.resampling_fn_data_kwargs.force_separate_z, None);
        let missing = cascade.resampling_fn_probabilities_kwargs;
        assert_eq!(missing.force_separate_z, Some(false));
        assert!(
            plans
                .configuration(path, "loop")
                .unwrap_err()
                .to_string()
                .contains("itself")
        );
        assert!(
            plans
                .configuration(path, "2d")
                .unwrap_err()
                .to_string()
                .contains("3d_fullres, ")
        );
    }

    #[test]
    fn the_older_style_is_supported() {
        let plans = plans(&serde_json::json!({
            "3d_fullres": {"patch_size": [128, 128, 128], "spacing": [1.5, 1.5, 1.5], "normalization_schemes": ["CTNormalization"],
                "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 32, "unet_max_num_features": 100,
                "n_conv_per_stage_encoder": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2],
                "num_pool_per_axis": [2, 2, 2], "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3], [3, 3, 3]]},
        }));
        let path = Path::new("plans.json");
        let found = plans.configuration(path, "3d_fullres").unwrap();
        let found = found.architecture(path).unwrap();
        assert!(found.network_class_name.ends_with(".PlainConvUNet"));
        assert_eq!(
            found.arch_kwargs["features_per_stage"],
            serde_json::json!([32, 64, 100])
        );
    }
}
