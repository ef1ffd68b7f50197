//! One case of a batch: reads the volume, segments it, writes the files.
//!
//! Over 400 lines: reading, detecting finished cases and writing depend on each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::job::PredictJob;
use ctseg_base::cancel::check_stop;
use ctseg_base::hash::file_sha256;
use ctseg_base::limits::memory::cache_budget;
use ctseg_base::memory_semaphore::{MemoryPermit, MemorySemaphore};
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Reading;
use ctseg_core::inference::attention::Attention;
use ctseg_core::inference::cascade::{Cascade, CascadeReport};
use ctseg_core::inference::export_logits::ProbabilitySink;
use ctseg_core::inference::predictor::Predictor;
use ctseg_core::inference::stage::check_extent;
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::outputs::entropy::EntropyFile;
use ctseg_core::outputs::existing::{Decision, Wanted};
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::overlapping_masks::OverlappingMasks;
use ctseg_core::outputs::probabilities::ProbabilityFile;
use ctseg_core::outputs::refuse_links_out;
use ctseg_core::outputs::sidecar::{
    CaseWriter, INFERENCE_VERSION, SavedProbabilities, Sidecar, read_sidecar, sidecar_path,
};
use ctseg_engine::losses::Outputs;
use ctseg_image::formats::{VolumeImage, case_name, read_header, read_volume};
use ctseg_image::preprocess::channels::Window;
use ctseg_image::space::{Grid, LabelMap};
use ctseg_image::statistics::hounsfield::Suspicion;

/// Memory per worker: one volume of 512 × 512 × 600 being segmented, and another one waiting.
const BYTES_PER_WORKER: u64 = 2 << 30;

/// Bytes per voxel: Hounsfield units and labels.
const VOXEL_BYTES: u64 = 6;

/// Semaphore for the memory of all volumes that are being read, segmented and written, or are waiting.
pub(crate) fn memory_of_volumes(max_ram: Option<u64>, workers: usize) -> MemorySemaphore {
    MemorySemaphore::new(match max_ram {
        None => cache_budget(BYTES_PER_WORKER * workers.max(1) as u64),
        Some(_) => 0, // --max-ram is estimated for one volume at a time
    })
}

/// Shared state of all cases of a batch.
pub(crate) struct Batch<'a> {
    pub(super) job: &'a PredictJob<'a>,
    /// The cases of this process.
    pub(super) cases: &'a [PredictCase],
    /// One per device of the job.
    pub(super) predictors: &'a [Predictor],
    /// Volumes that exceed `--max-ram`, with the message.
    pub(super) too_large: BTreeMap<PathBuf, String>,
    /// Resident bytes of the process with its models, before any volume is read.
    pub(super) resident: u64,
    pub(super) structures: BTreeMap<String, u16>,
    pub(super) models: Vec<ModelUsed>,
    pub(super) model_sha256: String,
    /// The range of Hounsfield units that the models use; `None` for models of images other than CT.
    pub(super) ct_window: Option<Window>,
    pub(super) observer: &'a dyn Observer,
}

/// A volume in memory, with the hash of its file.
pub(super) struct Input<'a> {
    image: VolumeImage,
    sha256: String,
    /// Time spent reading.
    seconds: f64,
    _memory: MemoryPermit<'a>,
}

/// A volume with its label map.
pub(super) struct Segmented<'a> {
    input: Input<'a>,
    labels: LabelMap,
    masks: Option<OverlappingMasks>,
    probabilities: Option<ProbabilityFile>,
    entropy: Option<EntropyFile>,
    attention: Option<Attention>,
    report: CascadeReport,
    device: String,
    /// Time spent segmenting.
    seconds: f64,
}

/// The outcome of a case.
pub(super) enum Outcome {
    /// Its label map already existed; with notes.
    Kept(Vec<String>),
    Written(Box<Sidecar>),
    /// A file that ctseg did not make would have been overwritten.
    Protected(Error),
    Failed(Error),
    /// Left for the next run, or for another process that has taken it over.
    Dropped,
}

impl Batch<'_> {
    /// Hash of everything except the input that determines a label map.
    pub(super) fn settings_sha256(&self) -> String {
        let predictor = self.predictors.first();
        let outputs = &self.job.outputs;
        let settings = (
            INFERENCE_VERSION,
            &self.model_sha256,
            predictor.map(Predictor::views),
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
        let mut text = format!("{settings:?}");
        // Omitted if not set, so that the hash equals that of older versions.
        let threshold = predictor.map(Predictor::threshold);
        if let Some(threshold) = threshold.filter(|threshold| !threshold.is_empty()) {
            text += &format!("{threshold:?}");
        }
        if let Some(how) = self.job.rescale_hu {
            text += &format!(" {how}");
        }
        format!("{:x}", Sha256::digest(text))
    }

    /// The cascade on the first device.
    fn cascade(&self) -> Option<&Cascade> {
        self.predictors.first().and_then(Predictor::cascade)
    }

    /// Decides from a case's existing files whether to make it; `input_sha256` is its volume's hash. `marked_done`: an
    /// earlier process has marked it as done, so `--overwrite` does not apply.
    fn decide(
        &self,
        case: &PredictCase,
        input_sha256: &str,
        marked_done: bool,
    ) -> Result<Decision> {
        let files = self.files(case);
        refuse_links_out(&case.output, &files)?;
        if self.job.overwrite && !marked_done {
            return Ok(Decision::Make);
        }
        let editable = self.job.outputs.editable(&case.output, &self.structures);
        let wanted = Wanted {
            input: &case.input,
            output: &case.output,
            files: &files,
            editable: &editable,
        };
        wanted.decide(|made| self.is_current(made, input_sha256))
    }

    /// All files of a case except its sidecar, relative to its folder.
    fn files(&self, case: &PredictCase) -> Vec<PathBuf> {
        let mut files = self.job.outputs.files(&case.output, &self.structures);
        let probabilities = self.job.probabilities.map(|kind| kind.path(&case.output));
        let name = probabilities.as_deref().and_then(Path::file_name);
        files.extend(name.map(PathBuf::from));
        files
    }

    /// The hash of a case's volume; taken from the sidecar, without reading the volume, if the case is marked as done.
    fn input_sha256(&self, case: &PredictCase, marked_done: bool) -> Result<String> {
        let made = marked_done.then(|| read_sidecar(&case.output)).flatten();
        match made {
            Some(made) => Ok(made.input_sha256),
            None => file_sha256(&case.input),
        }
    }

    /// The outcome of a case whose files already exist; `None` if it is to be made.
    pub(super) fn existing_outcome(&self, index: usize, marked_done: bool) -> Option<Outcome> {
        let case = &self.cases[index];
        if case.refused.is_some() {
            return None; // reading it reports the error
        }
        let decision = self
            .input_sha256(case, marked_done)
            .and_then(|sha256| self.decide(case, &sha256, marked_done));
        outcome_of(decision, case)
    }

    /// Reads a case's volume, once there is memory for it; the outcome instead if its files already exist.
    pub(super) fn read<'r>(
        &self,
        index: usize,
        memory: &'r MemorySemaphore,
    ) -> Result<std::result::Result<Input<'r>, Outcome>> {
        let case = &self.cases[index];
        if let Some(refused) = &case.refused {
            return Err(Error::file(&case.input, refused));
        }
        // Volumes that cannot be segmented are refused before hashing, unless there are results to keep.
        let has_results = sidecar_path(&case.output).exists();
        let header = match has_results {
            true => read_header(&case.input),
            false => Ok(read_header(&case.input)?),
        };
        if let Ok(header) = &header {
            check_extent(&header.grid).map_err(|error| with_input(error, case))?;
            if !has_results {
                self.check_memory(case, &header.grid)?;
            }
        }
        let hashing = Instant::now();
        let sha256 = file_sha256(&case.input)?;
        if let Some(outcome) = outcome_of(self.decide(case, &sha256, false), case) {
            return Ok(Err(outcome));
        }
        let hashing = hashing.elapsed();
        let grid = header?.grid;
        self.check_memory(case, &grid)?;
        let voxels = grid.voxels() as u64;
        let permit = memory.acquire(voxels.saturating_mul(VOXEL_BYTES));
        let reading = Instant::now();
        let mut image = read_volume(&case.input)?;
        self.rescale_hu(&mut image);
        Ok(Ok(Input {
            image,
            sha256,
            seconds: (hashing + reading.elapsed()).as_secs_f64(),
            _memory: permit,
        }))
    }

    /// Refuses a volume that needs more memory than available, before anything is allocated for it.
    fn check_memory(&self, case: &PredictCase, grid: &Grid) -> Result<()> {
        let predictor = self.predictors.first();
        let checked = match (self.job.max_ram, predictor) {
            (None, Some(predictor)) => {
                predictor.check_memory(grid, self.job.needs_probabilities(), self.resident)
            }
            _ => match self.too_large.get(&case.input) {
                Some(why) => Err(Error::file(&case.input, why)),
                None => Ok(()),
            },
        };
        checked.map_err(|error| with_input(error, case))
    }

    /// Rescales the image to Hounsfield units if requested, and adds a warning if the values do not look like them.
    fn rescale_hu(&self, image: &mut VolumeImage) {
        let reading = Reading {
            rescale_hu: self.job.rescale_hu,
            ..Reading::default()
        };
        reading.rescale(image);
        if self.ct_window.is_some() {
            let suspicion = Suspicion::of(image.volume.data.view(), self.ct_window);
            let warning = suspicion.map(|suspicion| suspicion.warning());
            image.header.warnings.extend(warning);
        }
    }

    /// Whether a finished case was made from this input, with this model and these settings.
    fn is_current(&self, made: &Sidecar, input_sha256: &str) -> bool {
        let Some(predictor) = self.predictors.first() else {
            return false;
        };
        made.matches(input_sha256, self.job.rescale_hu, &self.model_sha256)
            && made.cascade.views == predictor.views()
            && made.cascade.postprocessing == *predictor.postprocessing()
            && made.cascade.threshold == *predictor.threshold()
            && self.job.outputs.match_sidecar(made, &self.structures)
    }

    /// Segments a case's volume on one of the devices; stops if the batch is `halted`.
    pub(super) fn segment<'r>(
        &self,
        index: usize,
        input: Input<'r>,
        device: usize,
        halted: &AtomicBool,
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
        let mut masks = overlapping.map(|cascade| {
            OverlappingMasks::new(volume.grid, cascade.values(), cascade.thresholds())
        });
        let mut sinks: Vec<&mut dyn ProbabilitySink> = Vec::new();
        sinks.extend(probabilities.iter_mut().map(|file| file as _));
        sinks.extend(entropy.iter_mut().map(|file| file as _));
        sinks.extend(masks.iter_mut().map(|masks| masks as _));
        let dropped = || "the case was dropped".to_owned();
        let on_pieces = |pieces: usize, total: usize| {
            task.get_or_init(|| self.observer.task(&name, total as u64, predictor.unit()))
                .advance(pieces as u64);
            check_stop(halted, dropped)?;
            match self.job.immediate_exit {
                Some(exit) => check_stop(exit.requested, dropped),
                None => Ok(()),
            }
        };
        let (labels, mut report) = predictor
            .segment_with_probabilities(volume, &on_pieces, sinks)
            .map_err(|error| with_input(error, case))?;
        drop(task);
        report.seconds.insert("read".to_owned(), input.seconds);
        let attention = match (self.job.on_attention, cascade) {
            (Some(_), Some(cascade)) => Some(cascade.attention(volume)?),
            _ => None,
        };
        Ok(Segmented {
            input,
            labels,
            masks,
            probabilities,
            entropy,
            attention,
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

    /// Moves the files that were written while logits were exported to their final names; returns the probabilities'
    /// file.
    fn finish(
        &self,
        (probabilities, entropy): (Option<ProbabilityFile>, Option<EntropyFile>),
        image: &VolumeImage,
        report: &mut CascadeReport,
    ) -> Result<Option<SavedProbabilities>> {
        let header = &image.header;
        let mut saved = None;
        if let Some(file) = probabilities {
            let saving = Instant::now();
            let path = file.finish(header)?;
            let labels = self.cascade().map(|cascade| cascade.values().to_vec());
            saved = path.file_name().map(|name| SavedProbabilities {
                file: PathBuf::from(name),
                labels: labels.unwrap_or_default(),
            });
            let seconds = saving.elapsed().as_secs_f64();
            report.seconds.insert("probabilities".to_owned(), seconds);
        }
        if let Some(file) = entropy {
            let saving = Instant::now();
            file.finish(header)?;
            let seconds = saving.elapsed().as_secs_f64();
            report.seconds.insert("entropy".to_owned(), seconds);
        }
        Ok(saved)
    }

    /// Writes a case's files, unless files of others have appeared in the meantime.
    pub(super) fn write(&self, index: usize, mut segmented: Segmented) -> Result<Outcome> {
        let case = &self.cases[index];
        let sha256 = segmented.input.sha256.clone();
        if let Some(outcome) = outcome_of(self.decide(case, &sha256, false), case) {
            return Ok(outcome);
        }
        let mut masks = segmented.masks.take();
        if let (Some(masks), Some(cascade)) = (&mut masks, self.cascade()) {
            masks.postprocess(cascade.postprocessing_plan())?;
        }
        // The time in the queue does not count.
        let segmenting = Duration::try_from_secs_f64(segmented.seconds).unwrap_or_default();
        let now = Instant::now();
        let mut writer = CaseWriter {
            input: &case.input,
            input_sha256: &sha256,
            image: &segmented.input.image,
            models: &self.models,
            model_sha256: &self.model_sha256,
            device: segmented.device,
            structures: &self.structures,
            outputs: &self.job.outputs,
            rescale_hu: self.job.rescale_hu,
            probabilities: None,
            started: now.checked_sub(segmenting).unwrap_or(now),
        };
        writer.start(&case.output, self.files(case))?;
        if let (Some(draw), Some(attention)) = (self.job.on_attention, &segmented.attention) {
            draw(case, attention)?;
        }
        let streamed = (segmented.probabilities, segmented.entropy);
        writer.probabilities = self.finish(streamed, writer.image, &mut segmented.report)?;
        let maps = (segmented.labels, masks);
        let sidecar = writer.write(&case.output, maps, segmented.report)?;
        Ok(Outcome::Written(Box::new(sidecar)))
    }
}

/// Adds the volume's path to an error that it caused.
fn with_input(error: Error, case: &PredictCase) -> Error {
    match error {
        Error::Invalid(problem) => Error::file(&case.input, problem),
        other => other,
    }
}

/// The outcome of a case by the decision about its files; `None` if it is to be made.
fn outcome_of(decision: Result<Decision>, case: &PredictCase) -> Option<Outcome> {
    match decision {
        Ok(Decision::Make) => None,
        Ok(Decision::Keep) => Some(Outcome::Kept(Vec::new())),
        Ok(Decision::KeepChanged(file)) => Some(Outcome::Kept(vec![format!(
            "{} was changed since ctseg wrote it, and is kept; use --overwrite to replace it",
            file.display()
        )])),
        // Errors about other files than the volume are about existing outputs.
        Err(error) => Some(match &error {
            Error::File { path, .. } if *path != case.input => Outcome::Protected(error),
            _ => Outcome::Failed(error),
        }),
    }
}
