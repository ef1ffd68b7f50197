//! Segments one volume with both stages: coarse probabilities, region of interest, fine logits, label map on the
//! volume's own grid.

use std::collections::BTreeMap;
use std::time::Instant;

use ndarray::Array4;

use super::{Cascade, CascadeReport, OnProgress};
use crate::inference::coarse_stage::run_stage_one;
use crate::inference::export_logits::{
    ProbabilitySink, Stream, Target, default_chunk_planes, export_logits,
};
use crate::inference::loaded_model::{Model, StageOne};
use crate::inference::nnunet::placement::Placement;
use crate::inference::roi::map_box;
use crate::inference::sliding_window::{OnPieces, Planes, best_axis};
use crate::inference::stage::{check_extent, network_grid};
use ctseg_base::{Error, Result};
use ctseg_image::labels::postprocess::apply;
use ctseg_image::space::{Grid, LabelMap, Orientation, Volume, VoxelBox};

/// Seconds per step, summed over models.
struct Laps {
    started: Instant,
    seconds: BTreeMap<String, f64>,
}

impl Laps {
    fn lap(&mut self, step: &str) {
        *self.seconds.entry(step.to_owned()).or_default() += self.started.elapsed().as_secs_f64();
        self.started = Instant::now();
    }
}

/// The results of the first stages: the region of interest, and each model's output.
pub(crate) struct Found {
    /// In voxels of the RAS-ordered source; `None` if no model has a first stage that finds one.
    pub(crate) region: Option<VoxelBox>,
    pub(crate) firsts: Vec<StageOne>,
    notes: Vec<String>,
}

/// The grids and inputs of the second stages.
#[derive(Clone, Copy)]
struct StageInputs<'a> {
    source: &'a Grid,
    /// As in [`Found`].
    region: Option<VoxelBox>,
    /// One per model, like `inputs`.
    grids: &'a [Grid],
    inputs: &'a [Array4<f32>],
}

impl Cascade {
    /// Segments one volume; the result lies on exactly its grid. `on_pieces` receives progress: slices or patches
    /// done, and their total; an error from it stops the work.
    ///
    /// An ensemble uses one region: the smallest that contains what each first stage found. Logits are averaged on
    /// the grid of the first model; those of models with another spacing are interpolated linearly, structure by
    /// structure. Only one layer of patches is in memory at a time, see [`Planes`]; logits are exported as soon as
    /// they are complete.
    pub fn segment(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
    ) -> Result<(LabelMap, CascadeReport)> {
        self.segment_with_probabilities(volume, on_pieces, Vec::new())
    }

    /// Like [`Cascade::segment`]; `sinks` receive the probabilities of all structures on the volume's grid.
    pub fn segment_with_probabilities(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
        sinks: Vec<&mut dyn ProbabilitySink>,
    ) -> Result<(LabelMap, CascadeReport)> {
        let source = &volume.grid;
        check_extent(source)?;
        let mut laps = Laps {
            started: Instant::now(),
            seconds: BTreeMap::new(),
        };
        let placement = self.models.iter().map(|model| model.placement(volume));
        let placement: Vec<Option<Placement>> = placement.collect();
        let earlier = self.previous_pieces(volume);
        // nnU-Net cascades have no region, so their pieces are known before the first stage runs.
        let all = earlier + self.pieces(&self.grids(source, &placement, None));
        let Found {
            region,
            firsts,
            notes,
        } = self.found(volume, &|count| on_pieces(count, all))?;
        laps.lap("stage1");
        let grids = self.grids(source, &placement, region);
        let inputs = self.models.iter().zip(&grids).zip(&placement).zip(&firsts);
        let inputs = inputs.map(|(((model, grid), placement), first)| {
            model.input(volume, grid, placement.as_ref(), first)
        });
        let inputs: Vec<Array4<f32>> = inputs.collect::<Result<_>>()?;
        drop(firsts);
        laps.lap("preprocess");
        let stage_inputs = StageInputs {
            source,
            region,
            grids: &grids,
            inputs: &inputs,
        };
        let all = earlier + self.pieces(&grids);
        let on_pieces = |count| on_pieces(count, all);
        let mut labels = self.labels(&stage_inputs, &on_pieces, sinks, &mut laps)?;
        drop(inputs);
        self.release_memory()?;
        if !self.plan.is_empty() {
            laps.started = Instant::now();
            apply(&mut labels, &self.plan)?;
            laps.lap("postprocess");
        }
        Ok((labels, self.report(source, region, notes, laps.seconds)?))
    }

    /// The second stages' grids, given the region that first stages found.
    fn grids(
        &self,
        source: &Grid,
        placement: &[Option<Placement>],
        region: Option<VoxelBox>,
    ) -> Vec<Grid> {
        let models = self.models.iter().zip(placement);
        let grids = models.map(|(model, placement)| {
            placement.map_or_else(|| model.grid(source, region), |placement| placement.grid)
        });
        grids.collect()
    }

    /// Number of slices or patches of the second stages.
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
        let roi = region.map(|region| map_box(&region, &ras, source));
        let roi = roi.transpose()?;
        Ok(CascadeReport {
            roi,
            roi_share: roi.map(|roi| roi.voxels() as f64 / source.voxels() as f64),
            views: self.views(),
            postprocessing: self.postprocessing.clone(),
            threshold: self.custom_thresholds.clone(),
            parts: Vec::new(),
            notes,
            seconds,
        })
    }

    /// Runs the second stages.
    fn labels(
        &self,
        stage_inputs: &StageInputs,
        on_pieces: &OnPieces,
        sinks: Vec<&mut dyn ProbabilitySink>,
        laps: &mut Laps,
    ) -> Result<LabelMap> {
        let StageInputs {
            source,
            region,
            grids,
            inputs,
        } = *stage_inputs;
        let first = self
            .models
            .first()
            .ok_or_else(|| Error::internal("inference without a model"))?;
        // The first model's spacing, in the common region.
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
            chunk_planes: self.chunk_planes.unwrap_or_else(|| {
                default_chunk_planes(self.values.len(), common.shape_zyx(), axis)
            }),
            values: &self.values,
            thresholds: &self.thresholds,
            outputs: first.stage2.recipe.outputs,
            how: first.stage2.recipe.restoration(source),
        };
        let exported = export_logits(&mut streams, &target, sinks)?;
        let mut lap = |step: &str, seconds| {
            *laps.seconds.entry(step.to_owned()).or_default() += seconds;
        };
        lap("stage2", exported.network_seconds);
        lap("restore", exported.export_seconds);
        Ok(exported.labels)
    }

    /// The streaming axis of all models, of (z, y, x).
    fn axis(&self, common: &Grid) -> usize {
        let best = |model: &Model| best_axis(&model.stage2.recipe, common.shape_zyx());
        self.models.iter().map(best).min().unwrap_or(0)
    }

    /// Releases the engines' caches, so that they are not held until the next volume.
    fn release_memory(&self) -> Result<()> {
        self.models
            .iter()
            .try_for_each(|model| model.stage2.release_memory())
    }

    /// Number of patches of the first stages of nnU-Net cascades.
    fn previous_pieces(&self, volume: &Volume) -> usize {
        let stages = self.models.iter();
        let stages = stages.filter_map(|model| model.previous(&self.values, self.chunk_planes));
        stages.map(|stage| stage.pieces(volume)).sum()
    }

    /// Runs the first stages; `on_pieces` receives the progress of those of nnU-Net cascades.
    pub(crate) fn found(&self, volume: &Volume, on_pieces: &OnPieces) -> Result<Found> {
        let mut found = Found {
            region: None,
            firsts: Vec::new(),
            notes: Vec::new(),
        };
        for model in &self.models {
            if let Some(previous) = model.previous(&self.values, self.chunk_planes) {
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
                Some(region) => region.union(&roi.region),
                None => roi.region,
            });
            found.firsts.push(StageOne::Prior(prior));
        }
        Ok(found)
    }
}
