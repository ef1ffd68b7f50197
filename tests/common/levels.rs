//! Models with a known result: networks whose weights label each structure by its HU.

use std::path::Path;

use ctseg_core::dataset::Structure;
use ctseg_core::model::bundle::{Bundle, TrainedStage};
use ctseg_core::model::manifest::{FoldManifest, StageManifest};
use ctseg_core::model::multi_part::{FORMAT, MultiPartManifest, PartManifest, RoughManifest};
use ctseg_engine::device::DeviceChoice;
use ctseg_engine::weights::{NamedTensors, network_tensors};
use ctseg_image::nifti::{VoxelType, write_volume};
use ctseg_image::space::{Grid, LabelMap, Volume, VoxelBox};

use super::small_recipe;

/// A structure's label, name and HU; voxels nearest to 0 HU or below are background.
pub type Level = (u16, &'static str, f64);

/// Publishes a model on a grid of `spacing_mm` that assigns each voxel the level nearest to its HU.
pub fn publish_levels(model: &Path, levels: &[Level], spacing_mm: f64) {
    let spacing = format!("spacing_mm=[{spacing_mm:.1}, {spacing_mm:.1}, {spacing_mm:.1}]");
    let recipe = small_recipe(
        "refine",
        &[
            "region=whole",
            "prior=false",
            "train_folds=[0]",
            "outputs=exclusive",
            "training.loss=ce_dice",
            "interpolation=linear",
            "windows_hu=[[0.0, 1000.0]]",
            "network.widths=[4, 8]",
            "network.norm=batch",
            "training.patch_size=[16, 16, 16]",
            &spacing,
        ],
    );
    let device = DeviceChoice::Auto.device().unwrap();
    let network = recipe
        .network
        .init(recipe.channels(), levels.len(), &device)
        .unwrap();
    let mut weights = network_tensors(&network).unwrap();
    set_weights(&mut weights, levels);
    let manifest = StageManifest {
        dataset: "levels".to_owned(),
        data_fingerprint: String::new(),
        seed: 0,
        engine: "none".to_owned(),
        stage1_sha256: None,
        channel: None,
        folds: vec![FoldManifest {
            input_ranges: None,
            fold: 0,
            epoch: 1,
            validation_dice: None,
            held_out: Vec::new(),
            trained_on: Vec::new(),
        }],
        image_sha256: Default::default(),
        recipe,
    };
    let structures: Vec<Structure> = levels
        .iter()
        .map(|(value, name, _)| Structure {
            value: *value,
            name: (*name).to_owned(),
        })
        .collect();
    let stage = TrainedStage {
        manifest,
        weights: vec![weights],
    };
    Bundle::publish(model, &structures, stage).unwrap();
}

/// The first channel passes through unchanged from the input to the head, where the logit of a level c is
/// 200 (2 c x − c²): largest for the level nearest to x; level 0 is the background's 0.
fn set_weights(weights: &mut NamedTensors, levels: &[Level]) {
    for (name, tensor) in weights.iter_mut() {
        let is_convolution = name.ends_with("conv.weight");
        if is_convolution || name.starts_with("up") {
            tensor.values.fill(0.0);
        }
        let first =
            is_convolution && (name.starts_with("encoder.0") || name.starts_with("decoder"));
        if first {
            let kernel: usize = tensor.shape[2..].iter().product();
            tensor.values[kernel / 2] = 1.0;
        }
    }
    let inputs = weights["head.weight"].shape[1];
    for (index, (_, _, hu)) in levels.iter().enumerate() {
        let level = (hu / 1000.0) as f32;
        let head = weights.get_mut("head.weight").unwrap();
        head.values[index * inputs..(index + 1) * inputs].fill(0.0);
        head.values[index * inputs] = 400.0 * level;
        weights.get_mut("head.bias").unwrap().values[index] = -200.0 * level * level;
    }
}

/// Air with boxes of the given HU, in voxels of `grid`.
pub fn boxes_in(grid: Grid, boxes: &[(VoxelBox, f32)]) -> Volume {
    let [z, y, x] = grid.shape_zyx();
    let mut data = ndarray::Array3::from_elem((z, y, x), -1000.0);
    for (place, hu) in boxes {
        let [z, y, x] = place.ranges_zyx();
        data.slice_mut(ndarray::s![z, y, x]).fill(*hu);
    }
    Volume { grid, data }
}

/// Saves a volume as 16-bit integers.
pub fn save(path: &Path, volume: &Volume) {
    write_volume(path, volume, VoxelType::I16).unwrap();
}

/// The label map of a volume: a label for each listed HU; 0 for all others.
pub fn labelled(volume: &Volume, labels: &[(f32, u16)]) -> LabelMap {
    let label = |hu: &f32| {
        labels
            .iter()
            .find(|(own, _)| own == hu)
            .map_or(0, |(_, l)| *l)
    };
    LabelMap {
        grid: volume.grid,
        data: volume.data.map(label),
    }
}

/// A manifest without hashes: `structures` by label value, `parts` with their labels and the target labels.
pub fn manifest(
    structures: &[(u16, &str)],
    parts: &[(&str, &[(u16, u16)])],
    rough: Option<RoughManifest>,
) -> MultiPartManifest {
    let structures = structures.iter();
    let parts = parts.iter().map(|(folder, labels)| PartManifest {
        folder: (*folder).to_owned(),
        sha256: String::new(),
        labels: labels
            .iter()
            .map(|(from, to)| (from.to_string(), *to))
            .collect(),
    });
    MultiPartManifest {
        format: FORMAT,
        ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
        name: "levels".to_owned(),
        structures: structures
            .map(|(value, name)| (value.to_string(), (*name).to_owned()))
            .collect(),
        parts: parts.collect(),
        rough,
        postprocessing: Default::default(),
    }
}

/// A rough model in `rough`. Its structures stand for those of the same names unless `stands_for` names others.
pub fn rough(
    when: ctseg_core::model::multi_part::When,
    margin_mm: f64,
    stands_for: &[(&str, &[&str])],
) -> RoughManifest {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    RoughManifest {
        folder: "rough".to_owned(),
        sha256: String::new(),
        when,
        margin_mm,
        stands_for: stands_for
            .iter()
            .map(|(name, by)| ((*name).to_owned(), owned(by)))
            .collect(),
    }
}
