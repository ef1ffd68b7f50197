//! Plans and `dataset.json` with which nnU-Net computes the same as a ctseg stage.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::export_checks::{check_cascade, check_counterparts, check_labels};
use super::export_weights::Rows;
use super::network::unet_of;
use super::plans::RESAMPLING;
use ctseg_base::Result;
use ctseg_core::dataset::Structure;
use ctseg_core::model::manifest::StageManifest;
use ctseg_core::recipe::{Axes, NnunetNormalisation, Recipe, SeparateZ};
use ctseg_engine::blocks::Activation;
use ctseg_engine::networks::UnetConfig;
use ctseg_image::preprocess::normalisation::Normalisation;
use ctseg_image::resample::Interpolation;

/// The JSON files that nnU-Net reads besides the weights.
#[derive(Debug)]
pub(super) struct Exported {
    pub plans: Value,
    pub dataset: Value,
    first: Option<String>,
    last: String,
    /// Label values in the order of nnU-Net's maps; a background map comes first unless the labels are regions.
    order: Vec<u16>,
    regions: bool,
}

impl Exported {
    pub(super) fn configuration(&self, stage: u8) -> &str {
        match (stage, &self.first) {
            (1, Some(first)) => first,
            _ => &self.last,
        }
    }

    /// The source of each row of nnU-Net's head.
    pub(super) fn rows(&self, structures: &[Structure]) -> Rows {
        let place = |value: &u16| structures.iter().position(|s| s.value == *value);
        let own = self.order.iter().map(place);
        match self.regions {
            true => own.collect(),
            false => std::iter::once(None).chain(own).collect(),
        }
    }
}

/// Plans for the stages that prediction needs.
///
/// # Errors
/// A feature that nnU-Net does not support, by name.
pub(super) fn plans(
    model: &Path,
    dataset: &str,
    first: Option<&StageManifest>,
    last: &StageManifest,
    structures: &[Structure],
) -> Result<Exported> {
    let recipe = &last.recipe;
    check_counterparts(model, first, last)?;
    let nnunet = recipe.nnunet.as_ref();
    let order: Vec<u16> = match nnunet {
        Some(nnunet) if !nnunet.regions.is_empty() => nnunet.regions.clone(),
        _ => structures.iter().map(|s| s.value).collect(),
    };
    let regions = nnunet.is_some_and(|nnunet| !nnunet.regions.is_empty());
    check_labels(model, structures, &order, regions)?;
    check_cascade(model, first, last, &order, regions)?;
    let names = names(first, last);
    let transpose = nnunet.map_or([0, 1, 2], |nnunet| nnunet.transpose);
    let backward: Vec<Option<usize>> = (0..3)
        .map(|axis| transpose.iter().position(|from| *from == axis))
        .collect();
    let plans = json!({
        "dataset_name": dataset,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": spacing_zyx(recipe, 3),
        "original_median_shape_after_transp": recipe.training.patch_size.zyx(),
        "image_reader_writer": match nnunet.map_or(Axes::Ras, |nnunet| nnunet.axes) {
            Axes::Stored => "SimpleITKIO",
            Axes::Ras => "NibabelIOWithReorient",
        },
        "transpose_forward": transpose,
        "transpose_backward": backward,
        "configurations": configurations(first, last, &names)?,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities(recipe)},
    });
    Ok(Exported {
        plans,
        dataset: dataset_json(recipe, structures, &order, regions),
        first: names.first,
        last: names.last,
        order,
        regions,
    })
}

/// The stages' configurations by name, each linked to the previous or next one.
fn configurations(
    first: Option<&StageManifest>,
    last: &StageManifest,
    names: &ConfigurationNames,
) -> Result<Map<String, Value>> {
    let mut configurations = Map::new();
    if let (Some(first), Some(name)) = (first, &names.first) {
        let mut stage = configuration(&first.recipe)?;
        stage["next_stage"] = json!(names.last);
        configurations.insert(name.clone(), stage);
    }
    let mut stage = configuration(&last.recipe)?;
    if let Some(name) = &names.first {
        stage["previous_stage"] = json!(name);
    }
    configurations.insert(names.last.clone(), stage);
    Ok(configurations)
}

/// Names of the stages' configurations.
struct ConfigurationNames {
    /// Of a cascade's first stage.
    first: Option<String>,
    last: String,
}

fn names(first: Option<&StageManifest>, last: &StageManifest) -> ConfigurationNames {
    let last_name = match (last.recipe.network.dimensions(), first) {
        (2, _) => "2d",
        (_, Some(_)) => "3d_cascade_fullres",
        (_, None) => "3d_fullres",
    };
    ConfigurationNames {
        first: first.map(|_| "3d_lowres".to_owned()),
        last: last_name.to_owned(),
    }
}

fn dataset_json(recipe: &Recipe, structures: &[Structure], order: &[u16], regions: bool) -> Value {
    let name = |value: &u16| {
        let structure = structures.iter().find(|s| s.value == *value);
        structure.map_or_else(|| value.to_string(), |s| s.name.clone())
    };
    let mut labels = Map::from_iter([("background".to_owned(), json!(0))]);
    for value in order {
        // The original values of a region are unknown; listing two marks it as a region.
        let listed = match regions {
            true => json!([
                value,
                order.iter().find(|other| *other != value).unwrap_or(value)
            ]),
            false => json!(value),
        };
        labels.insert(name(value), listed);
    }
    let mut dataset = json!({
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": recipe.folds,
        "file_ending": ".nii.gz",
    });
    if regions {
        dataset["regions_class_order"] = json!(order);
    }
    dataset
}

/// Spacing along the network's axes, without z for a 2D network.
fn spacing_zyx(recipe: &Recipe, axes: usize) -> Vec<f64> {
    let [x, y, z] = recipe.spacing_mm;
    [z, y, x][3 - axes..].to_vec()
}

fn configuration(recipe: &Recipe) -> Result<Value> {
    let axes = recipe.network.dimensions();
    let nnunet = recipe.nnunet.as_ref();
    // ctseg's own models never resample slice by slice.
    let of = |separate: Option<SeparateZ>| match separate.unwrap_or(SeparateZ::Never) {
        SeparateZ::Auto => Value::Null,
        SeparateZ::Always => json!(true),
        SeparateZ::Never => json!(false),
    };
    let order = match recipe.interpolation {
        Interpolation::Nearest => 0,
        Interpolation::Linear => 1,
        Interpolation::Cubic => 3,
    };
    let kwargs = |is_seg: bool, order: i32, separate: Value| json!({"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": separate});
    let (scheme, masked) = match nnunet.map(|nnunet| nnunet.normalisation) {
        None | Some(NnunetNormalisation::Ct { .. }) => ("CTNormalization", false),
        Some(NnunetNormalisation::ZScore { masked }) => ("ZScoreNormalization", masked),
        Some(NnunetNormalisation::None {}) => ("NoNormalization", false),
        Some(NnunetNormalisation::RescaleTo01 {}) => ("RescaleTo01Normalization", false),
        Some(NnunetNormalisation::RgbTo01 {}) => ("RGBTo01Normalization", false),
    };
    Ok(json!({
        "data_identifier": format!("nnUNetPlans_{axes}d"),
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": recipe.training.patch_size.sides(),
        "median_image_size_in_voxels": recipe.training.patch_size.sides(),
        "spacing": spacing_zyx(recipe, axes),
        "normalization_schemes": [scheme],
        "use_mask_for_norm": [masked],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_data_kwargs": kwargs(false, order, of(nnunet.map(|n| n.image_slices))),
        "resampling_fn_seg_kwargs": kwargs(true, 1, of(nnunet.map(|n| n.label_slices))),
        "resampling_fn_probabilities_kwargs": kwargs(false, 1, of(nnunet.map(|n| n.logit_slices))),
        "batch_dice": true,
        "architecture": architecture(&unet_of(recipe)?, axes),
    }))
}

fn architecture(config: &UnetConfig, axes: usize) -> Value {
    let (class, key, counts) = match (&config.blocks, &config.convolutions) {
        (Some(blocks), _) => ("ResidualEncoderUNet", "n_blocks_per_stage", blocks),
        (None, Some(convolutions)) => ("PlainConvUNet", "n_conv_per_stage", convolutions),
        (None, None) => ("PlainConvUNet", "n_conv_per_stage", &config.widths),
    };
    let mut decoder = config.decoder_convolutions.clone().unwrap_or_default();
    decoder.reverse();
    let nonlin = match config.activation {
        Some(Activation::Relu) => "torch.nn.ReLU",
        _ => "torch.nn.LeakyReLU",
    };
    let mut arguments = json!({
        "n_stages": config.widths.len(),
        "features_per_stage": config.widths,
        "conv_op": format!("torch.nn.modules.conv.Conv{axes}d"),
        "kernel_sizes": config.kernels,
        "strides": config.strides,
        "n_conv_per_stage_decoder": decoder,
        "conv_bias": true,
        "norm_op": format!("torch.nn.modules.instancenorm.InstanceNorm{axes}d"),
        "norm_op_kwargs": {"eps": 1e-5, "affine": true},
        "dropout_op": null,
        "dropout_op_kwargs": null,
        "nonlin": nonlin,
        "nonlin_kwargs": {"inplace": true},
    });
    arguments[key] = json!(counts);
    json!({
        "network_class_name": format!("dynamic_network_architectures.architectures.unet.{class}"),
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    })
}

/// The statistics with which CTNormalization reproduces the window and normalisation.
fn intensities(recipe: &Recipe) -> Value {
    let ct = recipe.nnunet.as_ref().map(|nnunet| nnunet.normalisation);
    let (low, high, mean, sd) = match (ct, recipe.windows_hu.first(), recipe.normalisation) {
        (
            Some(NnunetNormalisation::Ct {
                low_hu,
                high_hu,
                mean_hu,
                sd_hu,
            }),
            _,
            _,
        ) => (low_hu, high_hu, mean_hu, sd_hu),
        (_, Some(window), Normalisation::Ct { mean_hu, sd_hu }) => {
            (window.low_hu, window.high_hu, mean_hu, sd_hu)
        }
        // Maps the window's limits to 0 and 1.
        (_, Some(window), _) => {
            let width = window.high_hu - window.low_hu;
            (window.low_hu, window.high_hu, window.low_hu, width)
        }
        (_, None, _) => (-1024.0, 3071.0, 0.0, 1.0),
    };
    json!({
        "mean": mean, "median": mean, "std": sd, "min": low, "max": high,
        "percentile_00_5": low, "percentile_99_5": high,
    })
}
