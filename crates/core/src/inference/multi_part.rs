//! A model of several parts at work on one volume: crop to what the rough model finds, each part on the crop, label
//! maps merged on the volume's own grid.
//!
//! Over 400 lines: parts, their order and their merging are one piece of work, with its tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ndarray::{SliceArg, Zip, s};

use super::batching::Frugality;
use super::cascade::{Cascade, CascadeReport, OnProgress};
use super::load_options::Loading;
use super::memory::Beside;
use super::memory_limit::frugality_within;
use super::rough_crop::{Compass, Region};
use super::threshold::Thresholds;
use crate::model::bundle::Bundle;
use crate::model::multi_part::{Opened, PartedModel};
use crate::model::multi_part_manifest::{PartManifest, PartedManifest};
use ctseg_base::{Error, Result};
use ctseg_engine::device::Compute;
use ctseg_image::labels::postprocess::{Step, apply};
use ctseg_image::space::{Grid, LabelMap, Volume, VoxelBox};

/// Steps of progress for each model that looks at a volume.
const STEPS: usize = 100;

/// Bytes for each voxel of the source that are held beside a part at work: the merged labels, and the crop where
/// there is one.
const MERGED: u64 = 2;
const CROP: u64 = 4;

/// Says where parts look.
pub trait RoughModel: Send + Sync {
    /// See [`Cascade::segment`].
    fn segment(&self, volume: &Volume, on_pieces: &OnProgress)
    -> Result<(LabelMap, CascadeReport)>;

    /// See [`Cascade::check_memory`].
    fn check_memory(&self, source: &Grid, resident: u64) -> Result<()>;
}

/// The needed parts of a model, ready for any number of volumes.
///
/// Parts stay in memory from volume to volume; where memory is limited only the one at work does, and its weights are
/// read again for each volume.
pub struct Composite {
    parts: Vec<Part>,
    rough: Option<(Box<dyn RoughModel>, Compass)>,
    /// Clean-up of the merged label map by label value, and all clean-up for the record, by name.
    plan: Vec<(u16, Vec<Step>)>,
    cleaning: BTreeMap<String, Vec<Step>>,
    /// Thresholds that are not 0.5, by name.
    threshold: BTreeMap<String, f64>,
    looks: usize,
}

/// One part.
struct Part {
    name: String,
    bundle: Bundle,
    /// Final label by the part's own.
    labels: Vec<u16>,
    compute: Compute,
    tta: Option<bool>,
    postprocess: bool,
    /// By the part's own names of structures.
    thresholds: Thresholds,
    frugality: Option<Frugality>,
    /// Where it stays.
    loaded: Mutex<Option<Arc<Cascade>>>,
    stays: bool,
}

impl Composite {
    /// Loads what was opened of a model, whose rough model is `rough`. Every part is loaded once, so that what cannot
    /// work is known at once.
    ///
    /// # Errors
    /// Parts that cannot be loaded, or that `--tta` has nothing to mirror along.
    pub fn load(
        model: &PartedModel,
        opened: &Opened,
        loading: &Loading,
        rough: Option<Box<dyn RoughModel>>,
    ) -> Result<Self> {
        let wanted = match &opened.chosen {
            Some(chosen) => chosen.clone(),
            None => model.structures().iter().map(|s| s.name.clone()).collect(),
        };
        let rough = rough.zip(opened.rough.as_ref());
        let rough = rough.map(|(rough, (manifest, models))| {
            let compass = Compass::new(manifest, &wanted, &models.structures()?);
            Ok::<_, Error>((rough, compass))
        });
        let rough = rough.transpose()?;
        let mut composite = Self {
            parts: Vec::new(),
            plan: plan(&model.manifest, loading.postprocess)?,
            cleaning: BTreeMap::new(),
            threshold: loading
                .thresholds
                .unusual(wanted.iter().map(String::as_str)),
            looks: 1,
            rough,
        };
        for (manifest, bundle) in &opened.parts {
            let beside = composite.beside();
            let mut part = Part::new(manifest, bundle, loading)?;
            part.thresholds = part.renamed(model, loading.thresholds)?;
            let cascade = part.limited(loading, beside)?;
            composite.looks = composite.looks.max(cascade.looks());
            composite.note_cleaning(model, &part, cascade.postprocessing())?;
            composite.parts.push(part);
        }
        if loading.postprocess {
            let own = model.manifest.postprocessing.clone();
            for (name, steps) in own {
                composite.cleaning.entry(name).or_default().extend(steps);
            }
        }
        Ok(composite)
    }

    /// A part's own clean-up, under the final names.
    fn note_cleaning(
        &mut self,
        model: &PartedModel,
        part: &Part,
        cleaning: &BTreeMap<String, Vec<Step>>,
    ) -> Result<()> {
        for own in part.bundle.structures()? {
            let label = part.labels.get(usize::from(own.value)).copied();
            let mut structures = model.structures().iter();
            let becomes = structures.find(|structure| Some(structure.value) == label);
            if let (Some(becomes), Some(steps)) = (becomes, cleaning.get(&own.name)) {
                let all = self.cleaning.entry(becomes.name.clone()).or_default();
                all.extend(steps.iter().copied());
            }
        }
        Ok(())
    }

    /// The most mirror images that a part looks at, the volume itself included.
    pub fn looks(&self) -> usize {
        self.looks
    }

    /// Thresholds that are not 0.5, by structure.
    pub fn threshold(&self) -> &BTreeMap<String, f64> {
        &self.threshold
    }

    /// The clean-up of label maps, by structure.
    pub fn postprocessing(&self) -> &BTreeMap<String, Vec<Step>> {
        &self.cleaning
    }

    /// What is held beside a part at work.
    fn beside(&self) -> Beside {
        let crop = if self.rough.is_some() { CROP } else { 0 };
        Beside {
            bytes: MERGED + crop,
            clean_up: !self.plan.is_empty(),
        }
    }

    /// See [`Cascade::check_memory`]: each part may have to look at the whole volume.
    pub fn check_memory(&self, source: &Grid, resident: u64) -> Result<()> {
        if let Some((rough, _)) = &self.rough {
            rough.check_memory(source, resident)?;
        }
        let beside = self.beside();
        self.parts.iter().try_for_each(|part| {
            let cascade = part.cascade()?;
            cascade.check_memory(source, false, beside, resident)
        })
    }

    /// Segments one volume, as [`Cascade::segment`]; `on_pieces` hears of steps of equal work for each model.
    pub fn segment(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
    ) -> Result<(LabelMap, CascadeReport)> {
        let runs = self.parts.len() + usize::from(self.rough.is_some());
        let mut report = CascadeReport {
            roi: None,
            roi_share: None,
            looks: self.looks,
            postprocessing: self.cleaning.clone(),
            threshold: self.threshold.clone(),
            parts: self.parts.iter().map(|part| part.name.clone()).collect(),
            notes: Vec::new(),
            seconds: BTreeMap::new(),
        };
        let region = self.region(volume, &in_steps(on_pieces, runs), &mut report)?;
        let whole = VoxelBox::whole(volume.grid.shape);
        let cropped = (region != whole).then(|| cropped(volume, &region));
        let seen = cropped.as_ref().unwrap_or(volume);
        let mut labels = LabelMap::empty(volume.grid);
        for part in &self.parts {
            let loading = Instant::now();
            let cascade = part.cascade()?;
            add_seconds(&mut report, "load", loading);
            let (found, own) = cascade.segment(seen, &in_steps(on_pieces, runs))?;
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
            let cleaning = Instant::now();
            apply(&mut labels, &self.plan)?;
            add_seconds(&mut report, "postprocess", cleaning);
        }
        Ok((labels, report))
    }

    /// Where the parts look.
    fn region(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
        report: &mut CascadeReport,
    ) -> Result<VoxelBox> {
        let Some((rough, compass)) = &self.rough else {
            return Ok(VoxelBox::whole(volume.grid.shape));
        };
        let begun = Instant::now();
        let (map, own) = rough.segment(volume, on_pieces)?;
        let Region { region, notes } = compass.region(&map);
        report.roi = Some(region);
        report.roi_share = Some(region.voxels() as f64 / volume.grid.voxels() as f64);
        let own = own.notes.into_iter();
        note_all(report, own.map(|note| format!("rough model: {note}")));
        note_all(report, notes);
        add_seconds(report, "rough", begun);
        Ok(region)
    }
}

impl Part {
    fn new(manifest: &PartManifest, bundle: &Bundle, loading: &Loading) -> Result<Self> {
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
            compute: loading.compute.clone(),
            tta: loading.tta,
            postprocess: loading.postprocess,
            thresholds: Thresholds::default(),
            frugality: None,
            loaded: Mutex::new(None),
            stays: loading.limit.is_none(),
        })
    }

    /// What structures of the whole `model` are told by `thresholds`, under the part's own names.
    fn renamed(&self, model: &PartedModel, thresholds: &Thresholds) -> Result<Thresholds> {
        let own = self.bundle.structures()?;
        let pairs = own.iter().filter_map(|own| {
            let label = self.labels.get(usize::from(own.value))?;
            let mut structures = model.structures().iter();
            let becomes = structures.find(|structure| structure.value == *label)?;
            Some((own.name.as_str(), becomes.name.as_str()))
        });
        Ok(thresholds.renamed(pairs))
    }

    /// Loads the part for the first time, and finds out how it keeps to the limit of memory.
    fn limited(&mut self, loading: &Loading, beside: Beside) -> Result<Arc<Cascade>> {
        let cascade = self.cascade()?;
        if let Some(limit) = loading.limit {
            self.frugality = Some(frugality_within(&cascade, limit, beside));
        }
        Ok(cascade)
    }

    fn cascade(&self) -> Result<Arc<Cascade>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cascade) = loaded.as_ref() {
            return Ok(Arc::clone(cascade));
        }
        let plain = Loading {
            compute: &self.compute,
            tta: self.tta,
            postprocess: self.postprocess,
            thresholds: &self.thresholds,
            limit: None,
        };
        let mut cascade = plain.cascade(std::slice::from_ref(&self.bundle))?;
        if let Some(frugality) = &self.frugality {
            cascade = cascade.frugal(frugality);
        }
        let cascade = Arc::new(cascade);
        if self.stays {
            *loaded = Some(Arc::clone(&cascade));
        }
        Ok(cascade)
    }
}

/// The clean-up of merged label maps, by label value.
fn plan(manifest: &PartedManifest, postprocess: bool) -> Result<Vec<(u16, Vec<Step>)>> {
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

/// Tells `on_pieces` of one of `runs` models' pieces as steps of [`STEPS`].
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

/// The part of a volume in `region`, where it lies in the world.
fn cropped(volume: &Volume, region: &VoxelBox) -> Volume {
    Volume {
        grid: volume.grid.cropped(region),
        data: volume.data.slice(slices(region)).to_owned(),
    }
}

/// Writes what a part found in `region` into the label map of the whole volume: `labels` says what its values
/// become, background leaves what is there.
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
    fn later_parts_win_and_unknown_labels_leave_what_is_there() {
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
    fn steps_add_up_whatever_pieces_are() {
        let all = AtomicUsize::new(0);
        let hear = |steps: usize, total: usize| {
            assert_eq!(total, 300);
            all.fetch_add(steps, Ordering::Relaxed);
            Ok(())
        };
        for total in [1, 7, 1000] {
            let before = all.load(Ordering::Relaxed);
            let told = in_steps(&hear, 3);
            (0..total).for_each(|_| told(1, total).unwrap());
            assert_eq!(all.load(Ordering::Relaxed) - before, 100);
        }
    }

    #[test]
    fn a_crop_keeps_its_place_in_the_world() {
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
