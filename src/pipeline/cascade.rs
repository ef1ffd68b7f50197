//! Both stages on one volume: coarse probabilities, region of interest, fine logits, label map on the
//! volume's own grid. Several models can look at a volume together.

mod views;

use std::collections::BTreeMap;
use std::time::Instant;

use ndarray::Array4;
use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::dataset::Structure;
use super::demand::Frugality;
use super::mirroring::Mirroring;
use super::models::{Model, StageOne, common_cleaning, common_structures};
use super::nnunet::Placed;
use super::planes::{OnPieces, Planes, best_axis};
use super::restoring::{Probabilities, Stream, Target, restored, usual_portion};
use super::roi::carried_over;
use super::segmenter::{Segmenter, check_extent, network_grid};
use super::stage_one::run_stage_one;
use crate::arrays::postprocess::{Step, apply};
use crate::error::{Error, Result};
use crate::tensors::device::Compute;
use crate::tensors::losses::Outputs;
use crate::tensors::quantisation::InputRanges;
use crate::values::{Grid, LabelMap, Orientation, Volume, VoxelBox};

pub use views::{Attention, Seen};

/// Models in memory, ready for any number of volumes.
pub struct Cascade {
    /// One, or several whose logits are averaged.
    models: Vec<Model>,
    /// Label values in the order of stage 2's maps.
    values: Vec<u16>,
    /// Clean-up of label maps by label value and, for the record, by name.
    plan: Vec<(u16, Vec<Step>)>,
    cleaning: BTreeMap<String, Vec<Step>>,
    /// How many planes of logits are restored at once; none: as many as usual.
    portion: Option<usize>,
}

/// What was done to one volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CascadeReport {
    /// The region that stage 2 worked on, in voxels of the source file; none for a single-stage model.
    pub roi: Option<VoxelBox>,
    /// The region's share of the volume.
    pub roi_share: Option<f64>,
    /// How many mirror images the models' second stages looked at, the volume itself included.
    #[serde(default = "one")]
    pub looks: usize,
    /// Clean-up of the label map, by structure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub postprocessing: BTreeMap<String, Vec<Step>>,
    /// Of a model of several parts: those that looked, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// Deviations from the normal way, in words.
    pub notes: Vec<String>,
    /// Seconds per step.
    pub seconds: BTreeMap<String, f64>,
}

fn one() -> usize {
    1
}

/// Hears of slices or patches that passed through the second stages, and how many there are in all.
pub type OnProgress<'a> = dyn Fn(usize, usize) -> Result<()> + Sync + 'a;

/// Seconds per step, added up over models.
struct Laps {
    begun: Instant,
    seconds: BTreeMap<String, f64>,
}

impl Laps {
    fn lap(&mut self, step: &str) {
        *self.seconds.entry(step.to_owned()).or_default() += self.begun.elapsed().as_secs_f64();
        self.begun = Instant::now();
    }
}

/// Where the second stages look: the region, with what each model's first stage gave.
struct Found {
    /// In voxels of the RAS-ordered source; none where no model's first stage finds one.
    region: Option<VoxelBox>,
    firsts: Vec<StageOne>,
    notes: Vec<String>,
}

/// What second stages look at.
#[derive(Clone, Copy)]
struct Looked<'a> {
    source: &'a Grid,
    /// As in [`Found`].
    region: Option<VoxelBox>,
    /// Of each model, and its network's input there.
    grids: &'a [Grid],
    inputs: &'a [Array4<f32>],
}

impl Cascade {
    /// Loads the stages of a bundle that prediction needs.
    pub fn load(bundle: &Bundle, compute: &Compute) -> Result<Self> {
        Self::load_all(std::slice::from_ref(bundle), compute)
    }

    /// Loads several models that look at every volume together.
    ///
    /// # Errors
    /// None at all, models of different structures, or of independent ones and of exclusive classes: their logits
    /// mean different things; models whose axes lie differently.
    pub fn load_all(bundles: &[Bundle], compute: &Compute) -> Result<Self> {
        let structures = common_structures(bundles)?;
        let outputs = |bundle: &Bundle| bundle.stage(2).map(|stage| stage.recipe.outputs);
        if let Some(other) = bundles
            .iter()
            .find(|other| outputs(other) != outputs(&bundles[0]))
        {
            return Err(Error::file(
                &other.path,
                format!(
                    "models that are averaged must have the same outputs, independent or exclusive; {} has others",
                    bundles[0].path.display()
                ),
            ));
        }
        let models = bundles.iter().map(|bundle| Model::load(bundle, compute));
        let models: Vec<Model> = models.collect::<Result<_>>()?;
        same_axes(&models, bundles)?;
        let cleaning = common_cleaning(bundles);
        let plan = structures
            .iter()
            .filter_map(|s| Some((s.value, cleaning.get(&s.name)?.clone())));
        Ok(Self {
            models,
            values: structures.iter().map(|s| s.value).collect(),
            plan: plan.collect(),
            cleaning,
            portion: None,
        })
    }

    /// How many maps there are.
    pub fn maps(&self) -> usize {
        self.values.len()
    }

    /// Label values in the order of the maps.
    pub(super) fn values(&self) -> &[u16] {
        &self.values
    }

    /// The clean-up of label maps, by label value.
    pub(super) fn clean_up(&self) -> &[(u16, Vec<Step>)] {
        &self.plan
    }

    /// Whether structures shut one another out, so that no voxel can be of two.
    pub(super) fn is_exclusive(&self) -> bool {
        let mut models = self.models.iter();
        models.any(|model| model.stage2.recipe.outputs == Outputs::Exclusive)
    }

    pub(super) fn models(&self) -> &[Model] {
        &self.models
    }

    /// Working through volumes in a way that takes less memory.
    pub fn frugal(self, how: &Frugality) -> Self {
        let models = self.models.into_iter().map(|model| match how.batch {
            Some(batch) => Model {
                stage1: model.stage1.map(|stage| stage.in_batches(batch)),
                stage2: model.stage2.in_batches(batch),
                ..model
            },
            None => model,
        });
        Self {
            models: models.collect(),
            portion: how.portion.or(self.portion),
            ..self
        }
    }

    /// With so many planes of logits restored at once, where that matters: fewer take less memory.
    pub fn in_portions(self, planes: usize) -> Self {
        Self {
            portion: Some(planes.max(1)),
            ..self
        }
    }

    /// Without the clean-up that the models ask for.
    pub fn without_postprocessing(mut self) -> Self {
        self.plan.clear();
        self.cleaning.clear();
        self
    }

    /// The clean-up of label maps, by structure.
    pub fn postprocessing(&self) -> &BTreeMap<String, Vec<Step>> {
        &self.cleaning
    }

    /// With the values that convolutions take in recorded from here on.
    ///
    /// # Errors
    /// The device does not compute in 8-bit integers.
    pub fn recording(self) -> Result<Self> {
        let models = self.models.into_iter().map(|model| {
            Ok(Model {
                stage1: model.stage1.map(Segmenter::recording).transpose()?,
                stage2: model.stage2.recording()?,
                ..model
            })
        });
        Ok(Self {
            models: models.collect::<Result<_>>()?,
            ..self
        })
    }

    /// What was recorded for each network of the first model's stage 1 (none where it is not in use) and stage 2.
    pub fn recorded(&self) -> [Vec<InputRanges>; 2] {
        let Some(model) = self.models.first() else {
            return Default::default();
        };
        let stage1 = model.stage1.as_ref().map(Segmenter::recorded);
        [stage1.unwrap_or_default(), model.stage2.recorded()]
    }

    /// With second stages looking at mirror images too, each along the axes that it was trained with.
    ///
    /// # Errors
    /// See [`Mirroring::new`].
    pub fn mirrored(mut self, structures: &[Structure]) -> Result<Self> {
        for model in &mut self.models {
            model.mirroring = Mirroring::new(&model.stage2.recipe, structures)?;
        }
        Ok(self)
    }

    /// Without mirror images, also where models are mirrored if nothing is said.
    pub fn unmirrored(mut self) -> Self {
        for model in &mut self.models {
            model.mirroring = Mirroring::none();
            model.previous_mirroring = Mirroring::none();
        }
        self
    }

    /// How many mirror images the second stages look at, the volume itself included, and the first stages of
    /// nnU-Net's cascades.
    pub fn looks(&self) -> usize {
        let first = |model: &Model| match model.previous(&self.values, None) {
            Some(stage) => stage.mirroring.looks(),
            None => 0,
        };
        self.models
            .iter()
            .map(|model| model.mirroring.looks() + first(model))
            .sum()
    }

    /// What stage 2's work is counted in.
    pub fn unit(&self) -> &'static str {
        self.models
            .first()
            .map_or("slices", |model| model.stage2.recipe.unit())
    }

    /// Segments one volume; the result lies on exactly its grid. `on_pieces` hears of progress:
    /// slices or patches done, and how many there are; an error from it stops the work.
    ///
    /// Several models look at one region: the smallest that holds what each of their first stages found, so that
    /// none misses what another has seen. Their logits are averaged on the grid of the first model: linear
    /// interpolation where another one's spacing differs, structure by structure. Logits are in memory for a layer
    /// of patches at a time, see [`super::planes`], and restored as soon as they are complete.
    pub fn segment(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
    ) -> Result<(LabelMap, CascadeReport)> {
        self.segment_telling(volume, on_pieces, Vec::new())
    }

    /// As [`Cascade::segment`]; `heard` are told the probabilities of all structures on the volume's grid.
    pub fn segment_telling(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
        heard: Vec<&mut dyn Probabilities>,
    ) -> Result<(LabelMap, CascadeReport)> {
        check_extent(&volume.grid)?;
        let mut laps = Laps {
            begun: Instant::now(),
            seconds: BTreeMap::new(),
        };
        let ras = volume.grid.reoriented(Orientation::RAS);
        let placed = self.models.iter().map(|model| model.placed(volume));
        let placed: Vec<Option<Placed>> = placed.collect();
        let earlier = self.previous_pieces(volume);
        let pieces = |region| {
            let models = self.models.iter().zip(&placed);
            let counts = models.map(|(model, placed)| {
                let grid = placed.map_or_else(|| model.grid(&volume.grid, region), |p| p.grid);
                model.pieces(&grid)
            });
            earlier + counts.sum::<usize>()
        };
        // Cascades of nnU-Net's have no region: their pieces are known before the first stage is at work.
        let all = pieces(None);
        let Found {
            region,
            firsts,
            notes,
        } = self.found(volume, &|count| on_pieces(count, all))?;
        laps.lap("stage1");
        let grids = self.models.iter().zip(&placed).map(|(model, placed)| {
            placed.map_or_else(|| model.grid(&volume.grid, region), |placed| placed.grid)
        });
        let grids: Vec<Grid> = grids.collect();
        let inputs = self.models.iter().zip(&grids).zip(&placed).zip(&firsts);
        let inputs = inputs.map(|(((model, grid), placed), first)| {
            model.input(volume, grid, placed.as_ref(), first)
        });
        let inputs: Vec<Array4<f32>> = inputs.collect::<Result<_>>()?;
        drop(firsts);
        laps.lap("preprocess");
        let looked = Looked {
            source: &volume.grid,
            region,
            grids: &grids,
            inputs: &inputs,
        };
        let all = pieces(region);
        let on_pieces = |count| on_pieces(count, all);
        let mut labels = self.labels(&looked, &on_pieces, heard, &mut laps)?;
        drop(inputs);
        self.release_memory()?;
        if !self.plan.is_empty() {
            laps.begun = Instant::now();
            apply(&mut labels, &self.plan)?;
            laps.lap("postprocess");
        }
        let roi = region
            .map(|region| carried_over(&region, &ras, &volume.grid))
            .transpose()?;
        let roi_share = roi.map(|roi| roi.voxels() as f64 / volume.grid.voxels() as f64);
        let report = CascadeReport {
            roi,
            roi_share,
            looks: self.looks(),
            postprocessing: self.cleaning.clone(),
            parts: Vec::new(),
            notes,
            seconds: laps.seconds,
        };
        Ok((labels, report))
    }

    /// The second stages' labels of what they look at.
    fn labels(
        &self,
        looked: &Looked,
        on_pieces: &OnPieces,
        heard: Vec<&mut dyn Probabilities>,
        laps: &mut Laps,
    ) -> Result<LabelMap> {
        let Looked {
            source,
            region,
            grids,
            inputs,
        } = *looked;
        let first = self
            .models
            .first()
            .ok_or_else(|| Error::invalid("internal: prediction without a model"))?;
        // The first model's spacing, in the region that counts for all.
        let common = match (region, grids.first()) {
            (Some(region), _) => network_grid(&first.stage2.recipe, source, &region),
            (None, Some(grid)) => *grid,
            (None, None) => first.grid(source, None),
        };
        let axis = self.axis(&common);
        let streams = self.models.iter().zip(grids).zip(inputs);
        let streams = streams.map(|((model, grid), input)| {
            let pass = model.stage2.pass(input.view(), &model.mirroring, on_pieces);
            Ok(Stream {
                planes: Planes::new(pass, axis)?,
                grid: *grid,
            })
        });
        let mut streams: Vec<Stream> = streams.collect::<Result<_>>()?;
        let target = Target {
            source,
            common: &common,
            axis,
            portion: self
                .portion
                .unwrap_or_else(|| usual_portion(self.values.len(), common.shape_zyx(), axis)),
            values: &self.values,
            outputs: first.stage2.recipe.outputs,
            how: first.stage2.recipe.restoration(source),
        };
        let restored = restored(&mut streams, &target, heard)?;
        let mut lap = |step: &str, seconds| {
            *laps.seconds.entry(step.to_owned()).or_default() += seconds;
        };
        lap("stage2", restored.network_seconds);
        lap("restore", restored.restore_seconds);
        Ok(restored.labels)
    }

    /// The axis of (z, y, x) along which all models work through a grid.
    fn axis(&self, common: &Grid) -> usize {
        let best = |model: &Model| best_axis(&model.stage2.recipe, common.shape_zyx());
        self.models.iter().map(best).min().unwrap_or(0)
    }

    /// What networks worked with is not kept for the next volume.
    fn release_memory(&self) -> Result<()> {
        self.models
            .iter()
            .try_for_each(|model| model.stage2.release_memory())
    }

    /// How many patches the first stages of nnU-Net's cascades look at.
    fn previous_pieces(&self, volume: &Volume) -> usize {
        let stages = self.models.iter();
        let stages = stages.filter_map(|model| model.previous(&self.values, self.portion));
        stages.map(|stage| stage.pieces(volume)).sum()
    }

    /// What the first stages find; `on_pieces` hears of those of nnU-Net's cascades.
    fn found(&self, volume: &Volume, on_pieces: &OnPieces) -> Result<Found> {
        let mut found = Found {
            region: None,
            firsts: Vec::new(),
            notes: Vec::new(),
        };
        for model in &self.models {
            if let Some(previous) = model.previous(&self.values, self.portion) {
                let labels = previous.labels(volume, on_pieces)?;
                found.firsts.push(StageOne::Labels(labels));
                continue;
            }
            let Some(stage1) = &model.stage1 else {
                found.firsts.push(StageOne::Nothing);
                continue;
            };
            let (roi, prior) = run_stage_one(stage1, volume, None)?;
            let border = "the region touches the end of the scan; structures may be cut off there"
                .to_owned();
            let noted = roi.touches_border && roi.fallback.is_none();
            for note in noted.then_some(border).into_iter().chain(roi.fallback) {
                if !found.notes.contains(&note) {
                    found.notes.push(note);
                }
            }
            found.region = Some(match found.region {
                Some(region) => region.joined(&roi.region),
                None => roi.region,
            });
            found.firsts.push(StageOne::Prior(prior));
        }
        Ok(found)
    }
}

/// # Errors
/// Models whose networks see a volume's axes in another order, or from another end: planes of logits would not fit
/// together.
fn same_axes(models: &[Model], bundles: &[Bundle]) -> Result<()> {
    let axes = |model: &Model| {
        let nnunet = model.stage2.recipe.nnunet.as_ref();
        nnunet.map(|nnunet| (nnunet.axes, nnunet.transpose, nnunet.regions.clone()))
    };
    let mut pairs = models.iter().zip(bundles);
    let Some((first, _)) = pairs.next() else {
        return Ok(());
    };
    match pairs.find(|(model, _)| axes(model) != axes(first)) {
        None => Ok(()),
        Some((_, other)) => Err(Error::file(
            &other.path,
            "its network sees the axes of a volume in another order than the first model's (nnU-Net's reader or transposition), or its regions come in another order; such models cannot be averaged: predict with each",
        )),
    }
}
