//! Inference with a multi-part model: crop to what the rough model finds, run each part on the crop, merge the label
//! maps on the volume's own grid.
//!
//! Over 400 lines: the parts, their order and their merging belong together, with their tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ndarray::{SliceArg, Zip, s};

use super::batching::Batching;
use super::cascade::{Cascade, CascadeReport, OnProgress};
use super::load_options::LoadOptions;
use super::memory::Overhead;
use super::memory_limit::batching_within;
use super::rough_crop::{Region, RoughCrop};
use super::threshold::Thresholds;
use crate::model::bundle::Bundle;
use crate::model::multi_part::{MultiPartModel, OpenedParts};
use crate::model::multi_part_manifest::{MultiPartManifest, PartManifest};
use ctseg_base::{Error, Result};
use ctseg_engine::device::Compute;
use ctseg_image::labels::postprocess::{Step, apply};
use ctseg_image::space::{Grid, LabelMap, Volume, VoxelBox};

/// Progress steps per model and volume.
const STEPS: usize = 100;

/// Bytes per source voxel that are held while a part runs: the merged labels, and the crop if there is one.
const MERGED: u64 = 2;
const CROP: u64 = 4;

/// Finds the region that the parts run on.
pub trait RoughModel: Send + Sync {
    /// See [`Cascade::segment`].
    fn segment(&self, volume: &Volume, on_pieces: &OnProgress)
    -> Result<(LabelMap, CascadeReport)>;

    /// See [`Cascade::check_memory`].
    fn check_memory(&self, source: &Grid, resident: u64) -> Result<()>;
}

/// The required parts of a multi-part model, ready for any number of volumes.
///
/// Parts stay in memory from volume to volume. Under a memory limit only the running part does, and its weights are
/// read again for each volume.
pub struct MultiPartPredictor {
    parts: Vec<Part>,
    rough: Option<(Box<dyn RoughModel>, RoughCrop)>,
    /// Post-processing of the merged label map by label value, and all post-processing by name for the sidecar.
    plan: Vec<(u16, Vec<Step>)>,
    postprocessing: BTreeMap<String, Vec<Step>>,
    /// Thresholds other than 0.5, by name.
    threshold: BTreeMap<String, f64>,
    views: usize,
}

struct Part {
    name: String,
    bundle: Bundle,
    /// Final label, indexed by the part's own label.
    labels: Vec<u16>,
    compute: Compute,
    tta: Option<bool>,
    postprocess: bool,
    /// By the part's own structure names.
    thresholds: Thresholds,
    batching: Option<Batching>,
    /// The part in memory, if it is kept there.
    loaded: Mutex<Option<Arc<Cascade>>>,
    keep_loaded: bool,
}

impl MultiPartPredictor {
    /// Loads the opened parts of a model with its rough model `rough`. Every part is loaded once, so that errors
    /// surface before the first volume.
    ///
    /// # Errors
    /// A part cannot be loaded; `--tta` with a part that was trained without mirroring.
    pub fn load(
        model: &MultiPartModel,
        opened: &OpenedParts,
        options: &LoadOptions,
        rough: Option<Box<dyn RoughModel>>,
    ) -> Result<Self> {
        let wanted = match &opened.chosen {
            Some(chosen) => chosen.clone(),
            None => model.structures().iter().map(|s| s.name.clone()).collect(),
        };
        let rough = rough.zip(opened.rough.as_ref());
        let rough = rough.map(|(rough, (manifest, models))| {
            let crop = RoughCrop::new(manifest, &wanted, &models.structures()?);
            Ok::<_, Error>((rough, crop))
        });
        let rough = rough.transpose()?;
        let mut predictor = Self {
            parts: Vec::new(),
            plan: plan(&model.manifest, options.postprocess)?,
            postprocessing: BTreeMap::new(),
            threshold: options
                .thresholds
                .non_default(wanted.iter().map(String::as_str)),
            views: 1,
            rough,
        };
        for (manifest, bundle) in &opened.parts {
            let overhead = predictor.overhead();
            let mut part = Part::new(manifest, bundle, options)?;
            part.thresholds = part.renamed(model, options.thresholds)?;
            let cascade = part.load_within_limit(options, overhead)?;
            predictor.views = predictor.views.max(cascade.views());
            predictor.add_postprocessing(model, &part, cascade.postprocessing())?;
            predictor.parts.push(part);
        }
        if options.postprocess {
            let own = model.manifest.postprocessing.clone();
            for (name, steps) in own {
                predictor
                    .postprocessing
                    .entry(name)
                    .or_default()
                    .extend(steps);
            }
        }
        Ok(predictor)
    }

    /// Adds a part's own post-processing, under the final names.
    fn add_postprocessing(
        &mut self,
        model: &MultiPartModel,
        part: &Part,
        postprocessing: &BTreeMap<String, Vec<Step>>,
    ) -> Result<()> {
        for own in part.bundle.structures()? {
            let label = part.labels.get(usize::from(own.value)).copied();
            let mut structures = model.structures().iter();
            let becomes = structures.find(|structure| Some(structure.value) == label);
            if let (Some(becomes), Some(steps)) = (becomes, postprocessing.get(&own.name)) {
                let all = self.postprocessing.entry(becomes.name.clone()).or_default();
                all.extend(steps.iter().copied());
            }
        }
        Ok(())
    }

    /// The largest number of test-time augmentation views of any part, including the original.
    pub fn views(&self) -> usize {
        self.views
    }

    /// Thresholds other than 0.5, by structure.
    pub fn threshold(&self) -> &BTreeMap<String, f64> {
        &self.threshold
    }

    /// Post-processing steps by structure.
    pub fn postprocessing(&self) -> &BTreeMap<String, Vec<Step>> {
        &self.postprocessing
    }

    /// Memory that is held while a part runs.
    fn overhead(&self) -> Overhead {
        let crop = if self.rough.is_some() { CROP } else { 0 };
        Overhead {
            bytes_per_voxel: MERGED + crop,
            postprocess: !self.plan.is_empty(),
        }
    }

    /// See [`Cascade::check_memory`]: each part may have to run on the whole volume.
    pub fn check_memory(&self, source: &Grid, resident: u64) -> Result<()> {
        if let Some((rough, _)) = &self.rough {
            rough.check_memory(source, resident)?;
        }
        let overhead = self.overhead();
        self.parts.iter().try_for_each(|part| {
            let cascade = part.cascade()?;
            cascade.check_memory(source, false, overhead, resident)
        })
    }

    /// Segments one volume like [`Cascade::segment`]; `on_pieces` receives progress in equal steps per model.
    pub fn segment(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
    ) -> Result<(LabelMap, CascadeReport)> {
        let runs = self.parts.len() + usize::from(self.rough.is_some());
        let mut report = CascadeReport {
            roi: None,
            roi_share: None,
            views: self.views,
            postprocessing: self.postprocessing.clone(),
            threshold: self.threshold.clone(),
            parts: self.parts.iter().map(|part| part.name.clone()).collect(),
            notes: Vec::new(),
            seconds: BTreeMap::new(),
        };
        let region = self.region(volume, &in_steps(on_pieces, runs), &mut report)?;
        let whole = VoxelBox::whole(volume.grid.shape);
        let cropped = (region != whole).then(|| cropped(volume, &region));
        let input = cropped.as_ref().unwrap_or(volume);
        let mut labels = LabelMap::empty(volume.grid);
        for part in &self.parts {
            let loading = Instant::now();
            let cascade = part.cascade()?;
            add_seconds(&mut report, "load", loading);
            let (found, own) = cascade.segment(input, &in_steps(on_pieces, runs))?;
            drop(cascade);
            for (step, seconds) in own.seconds {
                *report.seconds.entry(step).or_default() += seconds;
            }
            note_all(&mut report, own.notes);
            let merging = Instant::now();
            merge(&mut labels, &region, &found, &part.labels);
            add_seconds(&mut report, "merge", merging);
        }
        drop(cropped);
        if !self.plan.is_empty() {
            let postprocessing = Instant::now();
            apply(&mut labels, &self.plan)?;
            add_seconds(&mut report, "postprocess", postprocessing);
        }
        Ok((labels, report))
    }

    /// The region that the parts run on.
    fn region(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
        report: &mut CascadeReport,
    ) -> Result<VoxelBox> {
        let Some((rough, crop)) = &self.rough else {
            return Ok(VoxelBox::whole(volume.grid.shape));
        };
        let started = Instant::now();
        let (map, own) = rough.segment(volume, on_pieces)?;
        let Region { region, notes } = crop.region(&map);
        report.roi = Some(region);
        report.roi_share = Some(region.voxels() as f64 / volume.grid.voxels() as f64);
        let own = own.notes.into_iter();
        note_all(report, own.map(|note| format!("rough model: {note}")));
        note_all(report, notes);
        add_seconds(report, "rough", started);
        Ok(region)
    }
}

impl Part {
    fn new(manifest: &PartManifest, bundle: &Bundle, options: &LoadOptions) -> Result<Self> {
        let lookup = manifest
            .lookup()
            .map_err(|problem| Error::file(&bundle.path, problem))?;
        let largest = lookup.iter().map(|(from, _)| usize::from(*from)).max();
        let mut labels = vec![0; largest.unwrap_or_default() + 1];
        for (from, to) in lookup {
            labels[usize::from(from)] = to;
        }
        Ok(Self {
            name: manifest.folder.clone(),
            bundle: bundle.clone(),
            labels,
            compute: options.compute.clone(),
            tta: options.tta,
            postprocess: options.postprocess,
            thresholds: Thresholds::default(),
            batching: None,
            loaded: Mutex::new(None),
            keep_loaded: options.limit.is_none(),
        })
    }

    /// The whole model's `thresholds` under the part's own structure names.
    fn renamed(&self, model: &MultiPartModel, thresholds: &Thresholds) -> Result<Thresholds> {
        let own = self.bundle.structures()?;
        let pairs = own.iter().filter_map(|own| {
            let label = self.labels.get(usize::from(own.value))?;
            let mut structures = model.structures().iter();
            let becomes = structures.find(|structure| structure.value == *label)?;
            Some((own.name.as_str(), becomes.name.as_str()))
        });
        Ok(thresholds.renamed(pairs))
    }

    /// Loads the part for the first time and chooses the batching that keeps within the memory limit.
    fn load_within_limit(
        &mut self,
        options: &LoadOptions,
        overhead: Overhead,
    ) -> Result<Arc<Cascade>> {
        let cascade = self.cascade()?;
        if let Some(limit) = options.limit {
            self.batching = Some(batching_within(&cascade, limit, overhead));
        }
        Ok(cascade)
    }

    fn cascade(&self) -> Result<Arc<Cascade>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cascade) = loaded.as_ref() {
            return Ok(Arc::clone(cascade));
        }
        let plain = LoadOptions {
            compute: &self.compute,
            tta: self.tta,
            postprocess: self.postprocess,
            thresholds: &self.thresholds,
            limit: None,
        };
        let mut cascade = plain.cascade(std::slice::from_ref(&self.bundle))?;
        if let Some(batching) = &self.batching {
            cascade = cascade.with_batching(batching);
        }
        let cascade = Arc::new(cascade);
        if self.keep_loaded {
            *loaded = Some(Arc::clone(&cascade));
        }
        Ok(cascade)
    }
}

/// Post-processing of merged label maps, by label value.
fn plan(manifest: &MultiPartManifest, postprocess: bool) -> Result<Vec<(u16, Vec<Step>)>> {
    if !postprocess {
        return Ok(Vec::new());
    }
    let structures = manifest.structures().map_err(Error::invalid)?;
    let plan = structures.into_iter().filter_map(|structure| {
        let steps = manifest.postprocessing.get(&structure.name)?;
        Some((structure.value, steps.clone()))
    });
    Ok(plan.collect())
}

fn add_seconds(report: &mut CascadeReport, step: &str, since: Instant) {
    *report.seconds.entry(step.to_owned()).or_default() += since.elapsed().as_secs_f64();
}

fn note_all(report: &mut CascadeReport, notes: impl IntoIterator<Item = String>) {
    for note in notes {
        if !report.notes.contains(&note) {
            report.notes.push(note);
        }
    }
}

/// Converts one model's pieces into [`STEPS`] progress steps for `on_pieces`; `runs` models share the progress bar.
fn in_steps<'a>(
    on_pieces: &'a OnProgress,
    runs: usize,
) -> impl Fn(usize, usize) -> Result<()> + Sync + 'a {
    let done = AtomicUsize::new(0);
    move |pieces, total| {
        let before = done.fetch_add(pieces, Ordering::Relaxed);
        let steps = |pieces: usize| STEPS * pieces.min(total) / total.max(1);
        on_pieces(steps(before + pieces) - steps(before), runs * STEPS)
    }
}

/// The slices of `region` in an array (z, y, x).
fn slices(region: &VoxelBox) -> impl SliceArg<ndarray::Ix3, OutDim = ndarray::Ix3> + use<> {
    let [z, y, x] = region.ranges_zyx();
    s![z, y, x]
}

/// The volume cropped to `region`; world coordinates are preserved.
fn cropped(volume: &Volume, region: &VoxelBox) -> Volume {
    Volume {
        grid: volume.grid.cropped(region),
        data: volume.data.slice(slices(region)).to_owned(),
    }
}

/// Writes a part's label map of `region` into that of the whole volume. `labels` maps its values to final ones;
/// background overwrites nothing.
fn merge(map: &mut LabelMap, region: &VoxelBox, found: &LabelMap, labels: &[u16]) {
    let onto = map.data.slice_mut(slices(region));
    Zip::from(onto).and(&found.data).par_for_each(|to, from| {
        match labels.get(usize::from(*from)) {
            None | Some(0) => {}
            Some(label) => *to = *label,
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_image::space::Grid;

    #[test]
    fn later_parts_win_and_unknown_labels_overwrite_nothing() {
        let grid = Grid::with_spacing([6, 1, 1], [1.0; 3]);
        let mut map = LabelMap::empty(grid);
        let region = VoxelBox {
            start: [1, 0, 0],
            end: [6, 1, 1],
        };
        let mut part = |values: [u16; 5], labels: &[u16]| {
            let mut found = LabelMap::empty(grid.cropped(&region));
            found
                .data
                .iter_mut()
                .zip(values)
                .for_each(|(to, v)| *to = v);
            merge(&mut map, &region, &found, labels);
        };
        part([1, 1, 2, 2, 0], &[0, 70, 300]);
        part([0, 1, 2, 3, 9], &[0, 5, 0, 7]);
        assert_eq!(map.data.as_slice().unwrap(), [0, 70, 5, 300, 7, 0]);
    }

    #[test]
    fn steps_add_up_for_any_number_of_pieces() {
        let all = AtomicUsize::new(0);
        let count = |steps: usize, total: usize| {
            assert_eq!(total, 300);
            all.fetch_add(steps, Ordering::Relaxed);
            Ok(())
        };
        for total in [1, 7, 1000] {
            let before = all.load(Ordering::Relaxed);
            let on_pieces = in_steps(&count, 3);
            (0..total).for_each(|_| on_pieces(1, total).unwrap());
            assert_eq!(all.load(Ordering::Relaxed) - before, 100);
        }
    }

    #[test]
    fn a_crop_keeps_its_world_coordinates() {
        let mut grid = Grid::with_spacing([5, 6, 7], [2.0, 3.0, 4.0]);
        grid.affine[0] = [-2.0, 0.0, 0.0, 50.0];
        let data =
            ndarray::Array3::from_shape_fn((7, 6, 5), |(z, y, x)| (100 * z + 10 * y + x) as f32);
        let volume = Volume { grid, data };
        let region = VoxelBox {
            start: [1, 2, 3],
            end: [4, 5, 7],
        };
        let crop = cropped(&volume, &region);
        assert_eq!(crop.data.dim(), (4, 3, 3));
        assert_eq!(crop.data[[0, 0, 0]], 321.0);
        assert_eq!(crop.grid.world_mm([0.0; 3]), [48.0, 6.0, 12.0]);
    }
}
