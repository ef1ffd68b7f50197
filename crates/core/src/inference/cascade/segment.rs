//! One volume through both stages: coarse probabilities, region of interest, fine logits, label map on the volume's
//! own grid.

use std::collections::BTreeMap;
use std::time::Instant;

use ndarray::Array4;

use super::{Cascade, CascadeReport, OnProgress};
use crate::inference::coarse_stage::run_stage_one;
use crate::inference::export_logits::{Probabilities, Stream, Target, restored, usual_portion};
use crate::inference::loaded_model::{Model, StageOne};
use crate::inference::nnunet::placement::Placed;
use crate::inference::roi::carried_over;
use crate::inference::sliding_window::{OnPieces, Planes, best_axis};
use crate::inference::stage::{check_extent, network_grid};
use ctseg_base::{Error, Result};
use ctseg_image::labels::postprocess::apply;
use ctseg_image::space::{Grid, LabelMap, Orientation, Volume, VoxelBox};

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
pub(crate) struct Found {
    /// In voxels of the RAS-ordered source; none where no model's first stage finds one.
    pub(crate) region: Option<VoxelBox>,
    pub(crate) firsts: Vec<StageOne>,
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
    /// Segments one volume; the result lies on exactly its grid. `on_pieces` hears of progress:
    /// slices or patches done, and how many there are; an error from it stops the work.
    ///
    /// Several models look at one region: the smallest that holds what each of their first stages found, so that
    /// none misses what another has seen. Their logits are averaged on the grid of the first model: linear
    /// interpolation where another one's spacing differs, structure by structure. Logits are in memory for a layer
    /// of patches at a time, see [`Planes`], and restored as soon as they are complete.
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
        let source = &volume.grid;
        check_extent(source)?;
        let mut laps = Laps {
            begun: Instant::now(),
            seconds: BTreeMap::new(),
        };
        let placed = self.models.iter().map(|model| model.placed(volume));
        let placed: Vec<Option<Placed>> = placed.collect();
        let earlier = self.previous_pieces(volume);
        // Cascades of nnU-Net's have no region: their pieces are known before the first stage is at work.
        let all = earlier + self.pieces(&self.grids(source, &placed, None));
        let Found {
            region,
            firsts,
            notes,
        } = self.found(volume, &|count| on_pieces(count, all))?;
        laps.lap("stage1");
        let grids = self.grids(source, &placed, region);
        let inputs = self.models.iter().zip(&grids).zip(&placed).zip(&firsts);
        let inputs = inputs.map(|(((model, grid), placed), first)| {
            model.input(volume, grid, placed.as_ref(), first)
        });
        let inputs: Vec<Array4<f32>> = inputs.collect::<Result<_>>()?;
        drop(firsts);
        laps.lap("preprocess");
        let looked = Looked {
            source,
            region,
            grids: &grids,
            inputs: &inputs,
        };
        let all = earlier + self.pieces(&grids);
        let on_pieces = |count| on_pieces(count, all);
        let mut labels = self.labels(&looked, &on_pieces, heard, &mut laps)?;
        drop(inputs);
        self.release_memory()?;
        if !self.plan.is_empty() {
            laps.begun = Instant::now();
            apply(&mut labels, &self.plan)?;
            laps.lap("postprocess");
        }
        Ok((labels, self.report(source, region, notes, laps.seconds)?))
    }

    /// The grids that the second stages work on where first stages found `region`.
    fn grids(
        &self,
        source: &Grid,
        placed: &[Option<Placed>],
        region: Option<VoxelBox>,
    ) -> Vec<Grid> {
        let models = self.models.iter().zip(placed);
        let grids = models.map(|(model, placed)| {
            placed.map_or_else(|| model.grid(source, region), |placed| placed.grid)
        });
        grids.collect()
    }

    /// How many slices or patches the second stages look at.
    fn pieces(&self, grids: &[Grid]) -> usize {
        let models = self.models.iter().zip(grids);
        models.map(|(model, grid)| model.pieces(grid)).sum()
    }

    fn report(
        &self,
        source: &Grid,
        region: Option<VoxelBox>,
        notes: Vec<String>,
        seconds: BTreeMap<String, f64>,
    ) -> Result<CascadeReport> {
        let ras = source.reoriented(Orientation::RAS);
        let roi = region.map(|region| carried_over(&region, &ras, source));
        let roi = roi.transpose()?;
        Ok(CascadeReport {
            roi,
            roi_share: roi.map(|roi| roi.voxels() as f64 / source.voxels() as f64),
            looks: self.looks(),
            postprocessing: self.cleaning.clone(),
            threshold: self.unusual.clone(),
            parts: Vec::new(),
            notes,
            seconds,
        })
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
            thresholds: &self.thresholds,
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
    pub(crate) fn found(&self, volume: &Volume, on_pieces: &OnPieces) -> Result<Found> {
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
