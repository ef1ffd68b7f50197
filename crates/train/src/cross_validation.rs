//! Out-of-fold predictions: label maps of every case, on its own grid, by the network that was not trained on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use sha2::{Digest, Sha256};

use ctseg_base::atomic_file::create_folder;
use ctseg_base::cancel::{catch_panic, check_stop};
use ctseg_base::hash::file_sha256;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::reference::{Depth, Reference, label_maps};
use ctseg_core::dataset::{Dataset, Structure};
use ctseg_core::inference::cascade::CascadeReport;
use ctseg_core::inference::coarse_result::StageOneResult;
use ctseg_core::inference::roi::map_box;
use ctseg_core::inference::stage::{Stage, network_grid, network_input};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::outputs::Outputs;
use ctseg_core::outputs::sidecar::{CaseWriter, is_complete_for};
use ctseg_core::recipe::output_maps::UNION;
use ctseg_core::recipe::{Region, Target};
use ctseg_engine::device::Compute;
use ctseg_engine::weights::NamedTensors;
use ctseg_evaluate::tolerances::Tolerances;
use ctseg_evaluate::{Evaluation, evaluate_cancellable};
use ctseg_image::resample::restore_exclusive;
use ctseg_image::space::{LabelMap, Orientation, Volume, VoxelBox};

/// The input of [`predict_out_of_fold`].
pub struct OutOfFoldJob<'a> {
    /// The model with the trained folds.
    pub bundle: &'a Bundle,
    pub stage: u8,
    pub dataset: &'a Dataset,
    /// The folds whose held-out cases are predicted.
    pub folds: &'a [usize],
    /// Results of a stage 1 that was not trained on the case; for stages that work inside a region.
    pub stage_one: &'a BTreeMap<usize, StageOneResult>,
    /// Output folder of the label maps.
    pub folder: PathBuf,
    pub compute: &'a Compute,
    pub stop: &'a AtomicBool,
    /// No case is started after this time.
    pub deadline: Option<Instant>,
}

/// The result of [`predict_out_of_fold`].
#[derive(Debug, Clone)]
pub struct OutOfFold {
    pub folder: PathBuf,
    /// Case indices in the dataset, with their label maps.
    pub maps: Vec<(usize, PathBuf)>,
    /// None if no case could be predicted.
    pub evaluation: Option<Evaluation>,
    /// Whether every held-out case was predicted.
    pub complete: bool,
    /// Whether all structures are evaluated as one, as the network has one output for all.
    pub union: bool,
}

/// Predicts the held-out cases of the job's folds; complete label maps of the same input and weights are kept. Writes
/// `metrics.csv` and `summary.json` beside them. A case that fails does not affect the others.
///
/// # Errors
/// The model lacks the stage; the folder cannot be written; [`Error::Interrupted`] when stopped.
pub fn predict_out_of_fold(job: &OutOfFoldJob, observer: &dyn Observer) -> Result<OutOfFold> {
    let networks = Networks::load(job)?;
    let cases = networks.held_out(job);
    create_folder(&job.folder)?;
    let task = observer.task("out-of-fold predictions", cases.len() as u64, "cases");
    let mut maps = Vec::new();
    let mut out_of_time = false;
    for held_out in &cases {
        check_stop(job.stop, || {
            "held-out cases were being predicted".to_owned()
        })?;
        out_of_time = job
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        if out_of_time {
            observer.warn(&format!(
                "time limit reached: {} of {} held-out cases were predicted; resume with 'ctseg fit --resume'",
                maps.len(),
                cases.len()
            ));
            break;
        }
        match catch_panic(|| networks.predict_case(job, held_out)) {
            Ok(path) => maps.push((held_out.case, path)),
            Err(error) => observer.warn(&format!("not predicted: {error}")),
        }
        task.advance(1);
    }
    drop(task);
    let evaluation = match maps.is_empty() {
        true => None,
        false => Some(evaluate_maps(job, &maps, networks.is_union(), observer)?),
    };
    Ok(OutOfFold {
        folder: job.folder.clone(),
        complete: !out_of_time && maps.len() == cases.len(),
        union: networks.is_union(),
        maps,
        evaluation,
    })
}

/// The networks of a stage, by fold position.
struct Networks {
    stage: Stage,
    folds: Vec<FoldNetwork>,
    structures: Vec<Structure>,
}

/// The network of one fold.
struct FoldNetwork {
    fold: usize,
    held_out: Vec<String>,
    /// The hash of everything that determines its label maps.
    hash: String,
}

/// A case, and the position of the network that was not trained on it.
struct HeldOutCase {
    case: usize,
    position: usize,
}

impl Networks {
    fn load(job: &OutOfFoldJob) -> Result<Self> {
        let stage = job.bundle.load_stage(job.stage, job.compute)?;
        let weights = job.bundle.stage_weights(job.stage)?;
        let manifest = job.bundle.stage(job.stage);
        let stage1 = match stage.recipe.region {
            Region::Roi => job.bundle.stage_sha256(1),
            Region::Whole => None,
        };
        let folds = manifest.map_or(&[][..], |stage| &stage.folds);
        let folds = folds
            .iter()
            .zip(&weights)
            .map(|(fold, weights)| FoldNetwork {
                fold: fold.fold,
                held_out: fold.held_out.clone(),
                hash: weights_sha256(weights, stage1),
            });
        let union = Structure {
            value: 1,
            name: UNION.to_owned(),
        };
        let structures = match stage.recipe.structures {
            Target::Union => vec![union],
            Target::Each => job.bundle.structures()?,
        };
        Ok(Self {
            folds: folds.collect(),
            stage,
            structures,
        })
    }

    fn is_union(&self) -> bool {
        self.stage.recipe.structures == Target::Union
    }

    fn held_out(&self, job: &OutOfFoldJob) -> Vec<HeldOutCase> {
        let position = |case: usize| {
            let id = &job.dataset.cases[case].id;
            let mut folds = self.folds.iter();
            folds.position(|own| job.folds.contains(&own.fold) && own.held_out.contains(id))
        };
        let cases = job.dataset.training_cases().into_iter();
        let held_out = cases.filter_map(|case| {
            let position = position(case)?;
            Some(HeldOutCase { case, position })
        });
        held_out.collect()
    }

    /// Predicts one case, unless its label map exists already; returns its path.
    fn predict_case(&self, job: &OutOfFoldJob, held_out: &HeldOutCase) -> Result<PathBuf> {
        let started = Instant::now();
        let FoldNetwork { fold, hash, .. } = &self.folds[held_out.position];
        let case_files = &job.dataset.cases[held_out.case];
        let name = case_files.id.replace(['/', '\\'], "_");
        let path = job.folder.join(format!("{name}.nii.gz"));
        let input_sha256 = job.dataset.copies.read(&case_files.image, file_sha256)?;
        let rescale_hu = job.dataset.reading.rescale_hu;
        if is_complete_for(&path, &input_sha256, rescale_hu, hash) {
            return Ok(path);
        }
        let image = job.dataset.load_image(case_files)?;
        let (labels, roi) = self.segment_case(job, held_out, &image.volume)?;
        let report = CascadeReport {
            roi,
            roi_share: roi.map(|roi| roi.voxels() as f64 / image.volume.grid.voxels() as f64),
            views: 1,
            parts: Vec::new(),
            notes: vec![format!(
                "out of fold: by the network of fold {fold}, which was not trained on this case"
            )],
            seconds: BTreeMap::new(),
            postprocessing: BTreeMap::new(),
            threshold: BTreeMap::new(),
        };
        let structures = self
            .structures
            .iter()
            .map(|s| (s.name.clone(), s.value))
            .collect();
        let writer = CaseWriter {
            input: &case_files.image,
            input_sha256: &input_sha256,
            image: &image,
            models: &[ModelUsed {
                model: job.bundle.path.clone(),
                sha256: hash.clone(),
            }],
            model_sha256: hash,
            device: job.compute.to_string(),
            structures: &structures,
            outputs: &Outputs::default(),
            rescale_hu,
            probabilities: None,
            started,
        };
        writer.start(&path, writer.outputs.files(&path, &structures))?;
        writer.write(&path, labels, None, report)?;
        Ok(path)
    }

    /// The labels of one case on its own grid, and the region that was segmented, if there is one.
    fn segment_case(
        &self,
        job: &OutOfFoldJob,
        held_out: &HeldOutCase,
        volume: &Volume,
    ) -> Result<(LabelMap, Option<VoxelBox>)> {
        let source = volume.grid;
        let ras = source.reoriented(Orientation::RAS);
        let recipe = &self.stage.recipe;
        let stage_one = job
            .stage_one
            .get(&held_out.case)
            .filter(|_| recipe.region == Region::Roi);
        let region = stage_one.map_or(VoxelBox::whole(ras.shape), |result| result.region);
        let grid = network_grid(recipe, &source, &region);
        let prior = stage_one.map(|result| &result.prior);
        let input = network_input(recipe, volume, &grid, prior)?;
        let logits = self.stage.logits_of_fold(held_out.position, input.view())?;
        drop(input);
        self.stage.release_memory()?;
        let values: Vec<u16> = self.structures.iter().map(|s| s.value).collect();
        let labels = restore_exclusive(logits.view(), &grid, &source, &values)?;
        drop(logits);
        let roi = stage_one
            .map(|result| map_box(&result.region, &ras, &source))
            .transpose()?;
        Ok((labels, roi))
    }
}

/// Compares the label maps with their references and writes the metrics beside them.
fn evaluate_maps(
    job: &OutOfFoldJob,
    maps: &[(usize, PathBuf)],
    union: bool,
    observer: &dyn Observer,
) -> Result<Evaluation> {
    let predicted = Dataset {
        cases: maps
            .iter()
            .map(|(case, _)| job.dataset.cases[*case].clone())
            .collect(),
        test: Vec::new(),
        ..job.dataset.clone()
    };
    let reference = if union {
        Reference::Union(predicted)
    } else {
        Reference::Dataset(predicted)
    };
    remove_stale_maps(&job.folder, maps)?;
    let tolerances = Tolerances::default();
    let evaluation =
        evaluate_cancellable(&job.folder, &reference, &tolerances, job.stop, observer)?;
    evaluation.write(&job.folder)?;
    Ok(evaluation)
}

/// Removes label maps that are not in `maps`, such as those of cases that are no longer in the dataset.
fn remove_stale_maps(folder: &Path, maps: &[(usize, PathBuf)]) -> Result<()> {
    for found in label_maps(folder, Depth::Folder)? {
        let is_own = maps.iter().any(|(_, own)| *own == found.path);
        if !is_own && found.path.exists() {
            std::fs::remove_file(&found.path).map_err(Error::io(&found.path, "remove"))?;
        }
    }
    Ok(())
}

/// Hash of a network's weights and of the stage 1 that provides its regions.
fn weights_sha256(weights: &NamedTensors, stage1: Option<&str>) -> String {
    let mut hasher = Sha256::new();
    for (name, tensor) in weights {
        hasher.update(format!("{name} {:?}\n", tensor.shape));
        tensor
            .values
            .iter()
            .for_each(|value| hasher.update(value.to_le_bytes()));
    }
    hasher.update(stage1.unwrap_or_default());
    format!("{:x}", hasher.finalize())
}
