//! One case of a batch: its volume read, segmented, its files written.
//!
//! Over 400 lines: what is read, how it is judged to be done already and what is written decide together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::job::PredictJob;
use ctseg_base::cancel::unless_stopped;
use ctseg_base::hash::file_sha256;
use ctseg_base::limits::memory::kept_at_most;
use ctseg_base::memory_semaphore::{Admitted, Gate};
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Reading;
use ctseg_core::inference::attention::Attention;
use ctseg_core::inference::cascade::{Cascade, CascadeReport};
use ctseg_core::inference::export_logits::Probabilities;
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
    INFERENCE_VERSION, Making, SavedProbabilities, Sidecar, read_sidecar,
};
use ctseg_engine::losses::Outputs;
use ctseg_image::formats::{VolumeImage, case_name, read_header, read_volume};
use ctseg_image::preprocess::channels::Window;
use ctseg_image::space::{Grid, LabelMap};
use ctseg_image::statistics::hounsfield::Suspicion;

/// For each worker: a volume of 512 × 512 × 600 that is segmented and another one beside it.
const BYTES_PER_WORKER: u64 = 2 << 30;

/// Bytes for each voxel: Hounsfield units and labels.
const VOXEL_BYTES: u64 = 6;

/// How much volumes that are read, wait, are segmented and written may take together.
pub(crate) fn memory_of_volumes(max_ram: Option<u64>, workers: usize) -> Gate {
    Gate::new(match max_ram {
        None => kept_at_most(BYTES_PER_WORKER * workers.max(1) as u64),
        Some(_) => 0, // memory that is counted holds one volume at a time
    })
}

/// What all cases of a batch share.
pub(crate) struct Batch<'a> {
    pub(super) job: &'a PredictJob<'a>,
    /// Those of the job that are this process's to look at.
    pub(super) cases: &'a [PredictCase],
    /// One for each of the job's devices.
    pub(super) predictors: &'a [Predictor],
    /// Volumes that `--max-ram` is too little for, and why.
    pub(super) too_large: BTreeMap<PathBuf, String>,
    /// Bytes that the process with its models holds, before any volume is read.
    pub(super) resident: u64,
    pub(super) structures: BTreeMap<String, u16>,
    pub(super) models: Vec<ModelUsed>,
    pub(super) model_sha256: String,
    /// The Hounsfield units that the models see; none of models of other images than CT.
    pub(super) ct_window: Option<Window>,
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
    attention: Option<Attention>,
    report: CascadeReport,
    device: String,
    /// Spent segmenting.
    seconds: f64,
}

/// What came of a case.
pub(super) enum Ended {
    /// Its label map was there already; what there is to say about it.
    Kept(Vec<String>),
    Written(Box<Sidecar>),
    /// A file that ctseg has not made would have been overwritten.
    Protected(Error),
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
        let mut text = format!("{way:?}");
        // Left out where none is set, so that older claims go on counting.
        let threshold = predictor.map(Predictor::threshold);
        if let Some(threshold) = threshold.filter(|threshold| !threshold.is_empty()) {
            text += &format!("{threshold:?}");
        }
        if let Some(how) = self.job.rescale_hu {
            text += &format!(" {how}");
        }
        format!("{:x}", Sha256::digest(text))
    }

    /// The models that look together, of the first device.
    fn cascade(&self) -> Option<&Cascade> {
        self.predictors.first().and_then(Predictor::cascade)
    }

    /// What its files, where there are some, decide about a case whose volume has this hash. `remembered`: claims say
    /// that it was done in this batch, which is not to be done again.
    fn decided(
        &self,
        case: &PredictCase,
        input_sha256: &str,
        remembered: bool,
    ) -> Result<Decision> {
        let files = self.files(case);
        refuse_links_out(&case.output, &files)?;
        if self.job.overwrite && !remembered {
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

    /// All that a case leaves beside its sidecar, relative to its folder.
    fn files(&self, case: &PredictCase) -> Vec<PathBuf> {
        let mut files = self.job.outputs.files(&case.output, &self.structures);
        let probabilities = self.job.probabilities.map(|kind| kind.path(&case.output));
        let name = probabilities.as_deref().and_then(Path::file_name);
        files.extend(name.map(PathBuf::from));
        files
    }

    /// The hash of a case's volume; where claims remember the case and its volume, without reading that.
    fn input_sha256(&self, case: &PredictCase, remembered: bool) -> Result<String> {
        let made = remembered.then(|| read_sidecar(&case.output)).flatten();
        match made {
            Some(made) => Ok(made.input_sha256),
            None => file_sha256(&case.input),
        }
    }

    /// What came of a case whose files are there already; none if it is to be made.
    pub(super) fn ended_before(&self, index: usize, remembered: bool) -> Option<Ended> {
        let case = &self.cases[index];
        if case.refused.is_some() {
            return None; // reading it says why
        }
        let decided = self
            .input_sha256(case, remembered)
            .and_then(|sha256| self.decided(case, &sha256, remembered));
        ended(decided, case)
    }

    /// A case's volume, once there is memory for it; what came of the case where its files are there already.
    pub(super) fn read<'r>(
        &self,
        index: usize,
        memory: &'r Gate,
    ) -> Result<std::result::Result<Input<'r>, Ended>> {
        let case = &self.cases[index];
        if let Some(refused) = &case.refused {
            return Err(Error::file(&case.input, refused));
        }
        let header = read_header(&case.input);
        if let Ok(header) = &header {
            // Nobody has segmented it before.
            check_extent(&header.grid).map_err(|error| of_input(error, case))?;
        }
        let hashing = Instant::now();
        let sha256 = file_sha256(&case.input)?;
        if let Some(ended) = ended(self.decided(case, &sha256, false), case) {
            return Ok(Err(ended));
        }
        let hashing = hashing.elapsed();
        let grid = header?.grid;
        self.check_memory(case, &grid)?;
        let voxels = grid.voxels() as u64;
        let admitted = memory.admit(voxels.saturating_mul(VOXEL_BYTES));
        let reading = Instant::now();
        let mut image = read_volume(&case.input)?;
        self.in_hounsfield_units(&mut image);
        Ok(Ok(Input {
            image,
            sha256,
            seconds: (hashing + reading.elapsed()).as_secs_f64(),
            _memory: admitted,
        }))
    }

    /// Refuses a volume that takes more memory than there is, before any is taken for it.
    fn check_memory(&self, case: &PredictCase, grid: &Grid) -> Result<()> {
        let predictor = self.predictors.first();
        let checked = match (self.job.max_ram, predictor) {
            (None, Some(predictor)) => {
                predictor.check_memory(grid, self.job.tells(), self.resident)
            }
            _ => match self.too_large.get(&case.input) {
                Some(why) => Err(Error::file(&case.input, why)),
                None => Ok(()),
            },
        };
        checked.map_err(|error| of_input(error, case))
    }

    /// Brings the image's values to Hounsfield units if that was asked for, and says it where they do not look like them.
    fn in_hounsfield_units(&self, image: &mut VolumeImage) {
        let reading = Reading {
            rescale_hu: self.job.rescale_hu,
            ..Reading::default()
        };
        reading.rescale(image);
        if self.ct_window.is_some() {
            let suspicion = Suspicion::of(image.volume.data.view(), self.ct_window);
            let warning = suspicion.map(|suspicion| suspicion.sentence());
            image.header.warnings.extend(warning);
        }
    }

    /// Whether a finished case was made of this input, by this model and in this way.
    fn is_current(&self, made: &Sidecar, input_sha256: &str) -> bool {
        let Some(predictor) = self.predictors.first() else {
            return false;
        };
        made.is_of(input_sha256, self.job.rescale_hu, &self.model_sha256)
            && made.cascade.looks == predictor.looks()
            && made.cascade.postprocessing == *predictor.postprocessing()
            && made.cascade.threshold == *predictor.threshold()
            && self.job.outputs.are_of(made, &self.structures)
    }

    /// Segments a case's volume on one of the devices, unless the batch is `halted`.
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
        let mut heard: Vec<&mut dyn Probabilities> = Vec::new();
        heard.extend(probabilities.iter_mut().map(|file| file as _));
        heard.extend(entropy.iter_mut().map(|file| file as _));
        heard.extend(masks.iter_mut().map(|masks| masks as _));
        let dropped = || "the case was dropped".to_owned();
        let on_pieces = |pieces: usize, total: usize| {
            task.get_or_init(|| self.observer.task(&name, total as u64, predictor.unit()))
                .advance(pieces as u64);
            unless_stopped(halted, dropped)?;
            match self.job.leaving {
                Some(leaving) => unless_stopped(leaving.asked, dropped),
                None => Ok(()),
            }
        };
        let (labels, mut report) = predictor
            .segment_telling(volume, &on_pieces, heard)
            .map_err(|error| of_input(error, case))?;
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

    /// Puts what was written while logits streamed by under its name; gives the probabilities' file.
    fn finished(
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

    /// Writes a case's files, unless somebody has put some there in the meantime.
    pub(super) fn write(&self, index: usize, mut segmented: Segmented) -> Result<Ended> {
        let case = &self.cases[index];
        let sha256 = segmented.input.sha256.clone();
        if let Some(ended) = ended(self.decided(case, &sha256, false), case) {
            return Ok(ended);
        }
        let mut masks = segmented.masks.take();
        if let (Some(masks), Some(cascade)) = (&mut masks, self.cascade()) {
            masks.clean(cascade.clean_up())?;
        }
        // As if it had been segmented just now: the time in a queue is nobody's.
        let spent = Duration::try_from_secs_f64(segmented.seconds).unwrap_or_default();
        let now = Instant::now();
        let mut making = Making {
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
            started: now.checked_sub(spent).unwrap_or(now),
        };
        making.begin(&case.output, self.files(case))?;
        if let (Some(draw), Some(attention)) = (self.job.on_attention, &segmented.attention) {
            draw(case, attention)?;
        }
        let streamed = (segmented.probabilities, segmented.entropy);
        making.probabilities = self.finished(streamed, making.image, &mut segmented.report)?;
        let maps = (segmented.labels, masks);
        let sidecar = making.written(&case.output, maps, segmented.report)?;
        Ok(Ended::Written(Box::new(sidecar)))
    }
}

/// An error that a case's volume is to blame for names it.
fn of_input(error: Error, case: &PredictCase) -> Error {
    match error {
        Error::Invalid(problem) => Error::file(&case.input, problem),
        other => other,
    }
}

/// What came of a case whose files have decided; none if it is to be made.
fn ended(decided: Result<Decision>, case: &PredictCase) -> Option<Ended> {
    match decided {
        Ok(Decision::Make) => None,
        Ok(Decision::Keep) => Some(Ended::Kept(Vec::new())),
        Ok(Decision::KeepChanged(file)) => Some(Ended::Kept(vec![format!(
            "{} was changed by hand since ctseg wrote it, and is kept; --overwrite makes it again",
            file.display()
        )])),
        // Of a volume that cannot be read nothing is known; all else is about what is there already.
        Err(error) => Some(match &error {
            Error::File { path, .. } if *path != case.input => Ended::Protected(error),
            _ => Ended::Failed(error),
        }),
    }
}
