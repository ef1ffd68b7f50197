//! How much memory the segmentation of a volume takes, known from its header, and how it is kept below a limit.

use std::cell::RefCell;
use std::path::PathBuf;

use super::batching::Frugality;
use super::cascade::Cascade;
use super::export_logits::{told_voxels, usual_portion};
use super::patch_grid::Lattice;
use super::sliding_window::best_axis;
use super::stage::{Segmenter, check_extent, network_grid};
use crate::recipe::{NnunetNormalisation, Recipe};
use ctseg_base::limits::threads::resident_bytes;
use ctseg_base::{Error, Result};
use ctseg_image::formats::read_header;
use ctseg_image::space::{Grid, Orientation, VoxelBox};

/// Room for what is not counted one by one: allocators' remainders, compressors, progress.
const ROOM: f64 = 1.1;
const ROOM_BYTES: u64 = 48 << 20;

/// Bytes for each voxel of the source's grid: Hounsfield units, labels.
const VOLUME: u64 = 4;
const LABELS: u64 = 2;

/// Clean-up takes structures side by side, each in its box: about so many bytes for each voxel of the source.
const CLEAN_UP: u64 = 8;

/// Most memory that the segmentation of volumes may take.
#[derive(Debug)]
pub struct Limit<'a> {
    pub bytes: u64,
    pub inputs: &'a [PathBuf],
    /// Whether somebody hears the probabilities.
    pub telling: bool,
    /// The most that is needed at least, where that is more, and what there is to say about it.
    shortage: RefCell<Option<(u64, Error)>>,
}

impl<'a> Limit<'a> {
    pub fn new(bytes: u64, inputs: &'a [PathBuf], telling: bool) -> Self {
        Self {
            bytes,
            inputs,
            telling,
            shortage: RefCell::new(None),
        }
    }

    /// Whether all models that were asked about keep to the limit.
    ///
    /// # Errors
    /// The volume that takes the most, and the least limit that would do for all.
    pub fn kept(&self) -> Result<()> {
        match self.shortage.take() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn exceeded(&self, bytes: u64, error: Error) {
        let mut shortage = self.shortage.borrow_mut();
        if shortage.as_ref().is_none_or(|(known, _)| bytes > *known) {
            *shortage = Some((bytes, error));
        }
    }
}

/// What is held beside a cascade at work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside {
    /// For each voxel of the source's grid.
    pub bytes: u64,
    /// Whether its labels are cleaned up afterwards.
    pub clean_up: bool,
}

/// What the steps of a segmentation hold at their worst, in bytes, beside the process itself and its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The volume as it is read.
    pub volume: u64,
    /// The volume in a network's spacing, and what lies on the way there.
    pub preprocess: u64,
    /// A stage's input, the network at work on it, layers of logits, labels.
    pub network: u64,
    pub clean_up: u64,
}

impl Demand {
    /// The most that is held at once.
    pub fn peak(&self) -> u64 {
        let worst = self.preprocess.max(self.network).max(self.clean_up);
        ((self.volume + worst) as f64 * ROOM) as u64 + ROOM_BYTES
    }

    /// With what lies beside the cascade.
    fn beside(mut self, beside: Beside, source: &Grid) -> Self {
        let voxels = source.voxels() as u64;
        self.volume += beside.bytes * voxels;
        if beside.clean_up {
            // When the last part is done with; its own labels are gone by then.
            self.clean_up = self.clean_up.max(CLEAN_UP * voxels);
        }
        self
    }
}

impl Cascade {
    /// What the segmentation of a volume on `source` takes where the region of interest is the whole volume, as it
    /// is wherever a first stage finds nothing; `telling` where somebody hears the probabilities.
    pub fn demand(&self, source: &Grid, frugality: &Frugality, telling: bool) -> Result<Demand> {
        let voxels = source.voxels() as u64;
        let volume = VOLUME * voxels;
        let mut demand = Demand {
            volume,
            preprocess: 0,
            network: 0,
            clean_up: LABELS * voxels,
        };
        if !self.postprocessing().is_empty() {
            demand.clean_up += CLEAN_UP * voxels;
        }
        let (mut inputs, mut layers) = (0, 0);
        for model in self.models() {
            let mut previous = 0;
            if let (Some(stage1), Some(first)) =
                (&model.stage1, model.previous(self.values(), None))
            {
                // Restored as a second stage is, and its labels wait for the second stage's input.
                let stage = Stage::of(stage1, first.mirroring.looks(), source, frugality)?;
                let at_work = stage.pass.max(stage.portion + stage.lines);
                demand.preprocess = demand.preprocess.max(stage.preprocess + stage.input);
                previous = LABELS * voxels;
                let networks = previous + inputs + stage.input + stage.layer + at_work;
                demand.network = demand.network.max(networks);
            } else if let Some(stage1) = &model.stage1 {
                let stage = Stage::of(stage1, 1, source, frugality)?;
                let logits = 3 * 4 * stage.maps * stage.voxels;
                demand.preprocess = demand.preprocess.max(stage.preprocess + stage.input);
                demand.network = demand.network.max(stage.input + stage.pass + logits);
            }
            let looks = model.mirroring.looks();
            let stage = Stage::of(&model.stage2, looks, source, frugality)?;
            demand.preprocess = demand
                .preprocess
                .max(inputs + previous + stage.preprocess + stage.input);
            inputs += stage.input;
            layers += stage.layer;
            let told = match telling {
                true => FLOAT * TOLD_ARRAYS * told_voxels(source) as u64,
                false => 0,
            };
            // Labels are restored after the probabilities were told.
            let restore = stage.portion + stage.lines.max(told);
            // What networks on patches held is free when a portion is restored.
            let at_work = match model.stage2.recipe.by_patches() {
                false => stage.pass + restore,
                true => stage.pass.max(restore),
            };
            let networks = LABELS * voxels + inputs + layers + at_work;
            demand.network = demand.network.max(networks);
        }
        Ok(demand)
    }
}

/// What one stage takes on a whole volume, in bytes.
struct Stage {
    /// Of its grid.
    voxels: u64,
    maps: u64,
    preprocess: u64,
    input: u64,
    /// A batch in the network.
    pass: u64,
    /// Planes that are not complete yet.
    layer: u64,
    /// A portion of logits, and the planes that are divided for it.
    portion: u64,
    /// What threads hold that restore labels of it.
    lines: u64,
}

impl Stage {
    fn of(
        segmenter: &Segmenter,
        looks: usize,
        source: &Grid,
        frugality: &Frugality,
    ) -> Result<Self> {
        let recipe = &segmenter.recipe;
        let whole = VoxelBox::whole(source.reoriented(Orientation::RAS).shape);
        let grid = network_grid(recipe, source, &whole);
        let shape = grid.shape_zyx();
        let voxels = grid.voxels() as u64;
        let maps = segmenter.maps() as u64;
        let channels = recipe.channels() as u64;
        let batch = frugality
            .batch
            .unwrap_or(usize::MAX)
            .min(recipe.training.batch_size.max(1));
        let axis = best_axis(recipe, shape);
        let plane = voxels / shape[axis].max(1) as u64;
        let portion = frugality
            .portion
            .unwrap_or_else(|| usual_portion(maps as usize, shape, axis))
            .min(shape[axis]) as u64;
        let layer = match recipe.by_patches() {
            // A batch of slices; on the pure-Rust engine one for each thread.
            false => (batch * segmenter.at_once()) as u64 * maps * plane,
            true => {
                let lattice = Lattice::new(recipe, shape);
                segmenter.added_maps(looks) as u64 * lattice.layer_voxels(axis) as u64
            }
        };
        // Of one structure for each thread.
        let longest = source.shape.into_iter().max().unwrap_or(1).max(1);
        let file_plane = (source.voxels() / longest) as u64;
        let restored = LINES_PLANES * file_plane * rayon::current_num_threads() as u64;
        Ok(Self {
            voxels,
            maps,
            preprocess: preprocess_bytes(recipe, source, &grid),
            input: FLOAT * channels * voxels,
            pass: segmenter.at_once() as u64 * segmenter.pass_bytes(shape, batch, looks)?,
            layer: FLOAT * layer,
            portion: FLOAT * maps * plane * (2 * portion + 2),
            lines: FLOAT * restored,
        })
    }
}

const FLOAT: u64 = 4;

/// What a thread that restores labels holds at most, in planes of the file.
const LINES_PLANES: u64 = 16;

/// Arrays of a slab of the source that are there while probabilities are told of it: the logits of a structure on
/// their way there and before, the sum over all classes, and what hearers work with.
const TOLD_ARRAYS: u64 = 6;

/// The volume clamped to its windows, and what stands between it and the network's grid: axes are resampled one
/// after the other, those first that get shorter the most.
fn preprocess_bytes(recipe: &Recipe, source: &Grid, grid: &Grid) -> u64 {
    let nnunet = recipe.nnunet.as_ref();
    let turned = nnunet.map_or(Orientation::RAS, |nnunet| nnunet.orientation(source));
    let own = source.reoriented(turned).shape;
    let mut ratios = [0, 1, 2].map(|axis| grid.shape[axis] as f64 / own[axis].max(1) as f64);
    ratios.sort_by(f64::total_cmp);
    let all = source.voxels() as f64;
    let first = all * ratios[0];
    let second = first * ratios[1];
    let third = second * ratios[2];
    // Lines must lie along the file's x axis, or the volume is turned.
    let turned = if source.orientation().axes[0] == 0 {
        0.0
    } else {
        all
    };
    let most = first.max(first + second).max(second + third);
    let plain = (FLOAT as f64 * (all + turned + most + third)) as u64;
    let Some(nnunet) = nnunet else {
        return plain;
    };
    let masked = matches!(
        nnunet.normalisation,
        NnunetNormalisation::ZScore { masked: true }
    );
    let per_voxel = match (nnunet.previous_labels.is_empty(), masked) {
        // The labels cut out, turned, and what is not 0.
        (false, _) => 2 * LABELS + MASKS,
        (true, true) => MASKS,
        (true, false) => 0,
    };
    plain + per_voxel * source.voxels() as u64
}

/// Bytes for each voxel while the holes of a mask are filled: the mask, its holes, their components.
const MASKS: u64 = 8;

/// The cascade, frugal enough for every volume to be segmented within the limit if it can be, see
/// [`frugality_within`].
pub fn within(cascade: Cascade, limit: &Limit) -> Result<Cascade> {
    let frugality = frugality_within(&cascade, limit, Beside::default())?;
    Ok(cascade.frugal(&frugality))
}

/// How a cascade keeps to a limit of memory with every volume, and with what lies beside it; the limit
/// [hears](Limit::kept) of it where that cannot be.
pub fn frugality_within(cascade: &Cascade, limit: &Limit, beside: Beside) -> Result<Frugality> {
    // What cannot be read or be true fails later, by itself.
    let headers = limit.inputs.iter().filter_map(|input| {
        let grid = read_header(input).ok()?.grid;
        check_extent(&grid).ok().map(|()| (input, grid))
    });
    let headers: Vec<(&PathBuf, Grid)> = headers.collect();
    let resident = resident_bytes();
    let mut least: Option<(&PathBuf, u64, Demand)> = None;
    for frugality in Frugality::STEPS {
        let mut most: Option<(&PathBuf, u64, Demand)> = None;
        for (input, grid) in &headers {
            let demand = cascade.demand(grid, &frugality, limit.telling)?;
            let demand = demand.beside(beside, grid);
            let bytes = resident + demand.peak();
            if most.as_ref().is_none_or(|(_, known, _)| bytes > *known) {
                most = Some((input, bytes, demand));
            }
        }
        if most
            .as_ref()
            .is_none_or(|(_, bytes, _)| *bytes <= limit.bytes)
        {
            return Ok(frugality);
        }
        least = most;
    }
    let Some((input, bytes, demand)) = least else {
        return Ok(Frugality::STEPS[0]);
    };
    let error = Error::file(
        input,
        format!(
            "needs {} of memory at least, and --max-ram is {}: {} for the process with its model, {} for the volume, up to {} beside it; raise --max-ram, or leave this volume out",
            megabytes(bytes),
            megabytes(limit.bytes),
            megabytes(resident),
            megabytes(demand.volume),
            megabytes(demand.peak().saturating_sub(demand.volume)),
        ),
    );
    limit.exceeded(bytes, error);
    Ok(Frugality::STEPS[Frugality::STEPS.len() - 1])
}

/// In whole MB (of 2^20 bytes, as limits are given), rounded up.
fn megabytes(bytes: u64) -> String {
    format!("{}M", bytes.div_ceil(1 << 20))
}
