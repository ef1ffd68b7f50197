//! One case of a batch: its volume read, segmented, its files written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::job::PredictJob;
use ctseg_base::cancel::unless_stopped;
use ctseg_base::hash::file_sha256;
use ctseg_base::limits::memory::kept_at_most;
use ctseg_base::memory_semaphore::{Admitted, Gate};
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::inference::cascade::{Cascade, CascadeReport};
use ctseg_core::inference::export_logits::Probabilities;
use ctseg_core::inference::predictor::Predictor;
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::outputs::entropy::EntropyFile;
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::overlapping_masks::OverlappingMasks;
use ctseg_core::outputs::probabilities::ProbabilityFile;
use ctseg_core::outputs::sidecar::{
    INFERENCE_VERSION, Making, SavedProbabilities, Sidecar, made_of,
};
use ctseg_engine::losses::Outputs;
use ctseg_image::formats::{VolumeImage, case_name, read_header, read_volume};
use ctseg_image::space::LabelMap;

/// For each worker: a volume of 512 × 512 × 600 that is segmented and another one beside it.
const BYTES_PER_WORKER: u64 = 2 << 30;

/// Bytes for each voxel: Hounsfield units and labels.
const VOXEL_BYTES: u64 = 6;

/// How much volumes that are read, wait, are segmented and written may take together.
pub(crate) fn memory_of_volumes(workers: usize) -> Gate {
    Gate::new(kept_at_most(BYTES_PER_WORKER * workers.max(1) as u64))
}

/// What all cases of a batch share.
pub(crate) struct Batch<'a> {
    pub(super) job: &'a PredictJob<'a>,
    /// Those of the job that are this process's to look at.
    pub(super) cases: &'a [PredictCase],
    /// One for each of the job's devices.
    pub(super) predictors: &'a [Predictor],
    pub(super) structures: BTreeMap<String, u16>,
    pub(super) models: Vec<ModelUsed>,
    pub(super) model_sha256: String,
    pub(super) observer: &'a dyn Observer,
}

/// A volume in memory, with the hash of the file it came from.
pub(super) struct Input<'a> {
    image: VolumeImage,
    sha256: String,
    /// Spent reading.
    seconds: f64,
    _memory: Admitted<'a>,
}

/// A volume with its label map.
pub(super) struct Segmented<'a> {
    input: Input<'a>,
    labels: LabelMap,
    masks: Option<OverlappingMasks>,
    probabilities: Option<ProbabilityFile>,
    entropy: Option<EntropyFile>,
    report: CascadeReport,
    device: String,
    /// Spent segmenting.
    seconds: f64,
}

/// What came of a case.
pub(super) enum Ended {
    /// Its label map was there already.
    Kept,
    Written(Box<Sidecar>),
    Failed(Error),
    /// Left for another time, or for another process, which has taken it over.
    Dropped,
}

impl Batch<'_> {
    /// What decides, beside the input, what a label map is like.
    pub(super) fn way_sha256(&self) -> String {
        let predictor = self.predictors.first();
        let outputs = &self.job.outputs;
        let way = (
            INFERENCE_VERSION,
            &self.model_sha256,
            predictor.map(Predictor::looks),
            predictor.map(Predictor::postprocessing),
            self.job.probabilities,
            (
                outputs.label_map,
                outputs.split,
                outputs.overlap,
                outputs.entropy,
                outputs.preview.is_some(),
                outputs.statistics_json,
                outputs.structures.is_some(),
            ),
            &self.structures,
        );
        format!("{:x}", Sha256::digest(format!("{way:?}")))
    }

    /// The models that look together, of the first device.
    fn cascade(&self) -> Option<&Cascade> {
        self.predictors.first().and_then(Predictor::cascade)
    }

    /// A case's volume, once there is memory for it; `None` if its files are there already, whole and from this input
    /// and model.
    pub(super) fn read<'r>(&self, index: usize, memory: &'r Gate) -> Result<Option<Input<'r>>> {
        let case = &self.cases[index];
        if let Some(refused) = &case.refused {
            return Err(Error::file(&case.input, refused));
        }
        let hashing = Instant::now();
        let sha256 = file_sha256(&case.input)?;
        if !self.job.overwrite && self.is_done(case, &sha256) {
            return Ok(None);
        }
        let hashing = hashing.elapsed();
        let voxels = read_header(&case.input)?.grid.voxels() as u64;
        let admitted = memory.admit(voxels.saturating_mul(VOXEL_BYTES));
        let reading = Instant::now();
        let image = read_volume(&case.input)?;
        Ok(Some(Input {
            image,
            sha256,
            seconds: (hashing + reading.elapsed()).as_secs_f64(),
            _memory: admitted,
        }))
    }

    fn is_done(&self, case: &PredictCase, input_sha256: &str) -> bool {
        let Some(predictor) = self.predictors.first() else {
            return false;
        };
        made_of(&case.output, input_sha256, &self.model_sha256).is_some_and(|made| {
            made.cascade.looks == predictor.looks()
                && made.cascade.postprocessing == *predictor.postprocessing()
                && self
                    .job
                    .outputs
                    .are_there(&case.output, &made, &self.structures)
                && self.job.probabilities.is_none_or(|kind| {
                    let path = kind.path(&case.output);
                    let name = path.file_name();
                    name.is_some_and(|name| made.is_whole(&case.output, Path::new(name)))
                })
        })
    }

    /// Segments a case's volume on one of the devices.
    pub(super) fn segment<'r>(
        &self,
        index: usize,
        input: Input<'r>,
        device: usize,
    ) -> Result<Segmented<'r>> {
        let case = &self.cases[index];
        let started = Instant::now();
        let predictor = &self.predictors[device];
        let cascade = predictor.cascade();
        let name = case_name(&case.input).unwrap_or_default();
        let task = OnceLock::new();
        let volume = &input.image.volume;
        let mut probabilities = self.probability_file(case, &input.image, cascade)?;
        let mut entropy = self.entropy_file(case, &input.image, cascade)?;
        let overlap = self.job.outputs.overlap;
        let overlapping = cascade.filter(|_| overlap);
        let mut masks =
            overlapping.map(|cascade| OverlappingMasks::new(volume.grid, cascade.values()));
        let mut heard: Vec<&mut dyn Probabilities> = Vec::new();
        heard.extend(probabilities.iter_mut().map(|file| file as _));
        heard.extend(entropy.iter_mut().map(|file| file as _));
        heard.extend(masks.iter_mut().map(|masks| masks as _));
        let on_pieces = |pieces: usize, total: usize| {
            task.get_or_init(|| self.observer.task(&name, total as u64, predictor.unit()))
                .advance(pieces as u64);
            match self.job.leaving {
                Some(leaving) => {
                    unless_stopped(leaving.asked, || "the case was dropped".to_owned())
                }
                None => Ok(()),
            }
        };
        let (labels, mut report) = predictor
            .segment_telling(volume, &on_pieces, heard)
            .map_err(|error| match error {
                Error::Invalid(problem) => Error::file(&case.input, problem),
                other => other,
            })?;
        drop(task);
        report.seconds.insert("read".to_owned(), input.seconds);
        if let (Some(on_attention), Some(cascade)) = (self.job.on_attention, cascade) {
            on_attention(case, &cascade.attention(volume)?)?;
        }
        Ok(Segmented {
            input,
            labels,
            masks,
            probabilities,
            entropy,
            report,
            device: self.job.computes[device].to_string(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    fn probability_file(
        &self,
        case: &PredictCase,
        image: &VolumeImage,
        cascade: Option<&Cascade>,
    ) -> Result<Option<ProbabilityFile>> {
        let (Some(kind), Some(cascade)) = (self.job.probabilities, cascade) else {
            return Ok(None);
        };
        let grid = image.volume.grid;
        ProbabilityFile::create(kind, &case.output, cascade.maps(), &grid).map(Some)
    }

    fn entropy_file(
        &self,
        case: &PredictCase,
        image: &VolumeImage,
        cascade: Option<&Cascade>,
    ) -> Result<Option<EntropyFile>> {
        let Some(cascade) = cascade.filter(|_| self.job.outputs.entropy) else {
            return Ok(None);
        };
        let outputs = match cascade.is_exclusive() {
            true => Outputs::Exclusive,
            false => Outputs::Independent,
        };
        let grid = image.volume.grid;
        EntropyFile::create(&case.output, cascade.maps(), outputs, &grid).map(Some)
    }

    /// Puts what was written while logits streamed by under its name; gives the probabilities' file.
    fn finished(&self, segmented: &mut Segmented) -> Result<Option<SavedProbabilities>> {
        let header = &segmented.input.image.header;
        let mut spent = Vec::new();
        let mut saved = None;
        if let Some(file) = segmented.probabilities.take() {
            let saving = Instant::now();
            let path = file.finish(header)?;
            let labels = self.cascade().map(|cascade| cascade.values().to_vec());
            saved = path.file_name().map(|name| SavedProbabilities {
                file: PathBuf::from(name),
                labels: labels.unwrap_or_default(),
            });
            spent.push(("probabilities", saving.elapsed().as_secs_f64()));
        }
        if let Some(file) = segmented.entropy.take() {
            let saving = Instant::now();
            file.finish(header)?;
            spent.push(("entropy", saving.elapsed().as_secs_f64()));
        }
        for (step, seconds) in spent {
            let steps = &mut segmented.report.seconds;
            steps.insert(step.to_owned(), seconds);
            segmented.seconds += seconds;
        }
        Ok(saved)
    }

    /// Writes a case's files.
    pub(super) fn write(&self, index: usize, mut segmented: Segmented) -> Result<Sidecar> {
        let case = &self.cases[index];
        let probabilities = self.finished(&mut segmented)?;
        let mut masks = segmented.masks.take();
        if let (Some(masks), Some(cascade)) = (&mut masks, self.cascade()) {
            masks.clean(cascade.clean_up())?;
        }
        // As if it had been segmented just now: the time in a queue is nobody's.
        let spent = Duration::try_from_secs_f64(segmented.seconds).unwrap_or_default();
        let now = Instant::now();
        let making = Making {
            input: &case.input,
            input_sha256: &segmented.input.sha256,
            image: &segmented.input.image,
            models: &self.models,
            model_sha256: &self.model_sha256,
            device: segmented.device,
            structures: &self.structures,
            outputs: &self.job.outputs,
            probabilities,
            started: now.checked_sub(spent).unwrap_or(now),
        };
        making.written(&case.output, (segmented.labels, masks), segmented.report)
    }
}
