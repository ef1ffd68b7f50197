//! Many volumes in, many label maps out: one bad case never costs another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::bundle::{Bundle, file_sha256};
use super::cascade::{Cascade, CascadeReport};
use super::guard::guarded;
use super::inputs::PredictCase;
use super::observer::Observer;
use crate::arrays::nifti::{NiftiImage, case_name, read_volume, write_labels};
use crate::cpu_budget::peak_memory_mb;
use crate::error::{Error, Result};
use crate::files::write_bytes_atomically;
use crate::tensors::device::Compute;
use crate::values::LabelMap;

/// What to segment, with what.
pub struct PredictJob<'a> {
    pub cases: Vec<PredictCase>,
    /// Where `failures.jsonl` goes if a case fails.
    pub folder: PathBuf,
    pub model: PathBuf,
    pub compute: Compute,
    /// Whether stage 2 looks at mirror images too, see [`super::mirroring`].
    pub tta: bool,
    /// Whether label maps that are whole and of this input and model are made again.
    pub overwrite: bool,
    /// Set from outside to stop after the case under way.
    pub stop: &'a AtomicBool,
}

/// A case that failed, as a line of `failures.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub input: PathBuf,
    pub reason: String,
}

/// `<case>.json`, which lies beside each label map.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sidecar {
    pub input: PathBuf,
    pub input_sha256: String,
    pub model: PathBuf,
    pub model_sha256: String,
    pub ctseg_version: String,
    pub device: String,
    /// Voxels along the file's axes.
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    pub orientation: String,
    /// Warnings about the file and deviations from the normal way.
    pub notes: Vec<String>,
    pub cascade: CascadeReport,
    /// Volume of each structure by name.
    pub volumes_ml: BTreeMap<String, f64>,
    /// Label value of each structure by name.
    pub structures: BTreeMap<String, u16>,
    pub seconds: f64,
    /// Largest resident memory of the process so far.
    pub peak_memory_mb: Option<f64>,
}

/// What came of a batch.
#[derive(Debug, Clone)]
pub struct PredictSummary {
    pub written: Vec<PathBuf>,
    /// Label maps that were there already, of the same input, model and version.
    pub kept: Vec<PathBuf>,
    pub failures: Vec<Failure>,
    /// Cases that were not segmented in the normal way, and why.
    pub notes: Vec<(PathBuf, String)>,
    pub seconds: f64,
    /// Set if the batch was stopped from outside before its end.
    pub interrupted: bool,
}

/// The sidecar of a label map.
pub fn sidecar_path(output: &Path) -> PathBuf {
    let name = case_name(output).unwrap_or_else(|| "case".to_owned());
    output.with_file_name(format!("{name}.json"))
}

/// Segments every case; weights are loaded once, the next volume is read while one is segmented. Failed
/// cases are listed in the summary and in `failures.jsonl`.
///
/// # Errors
/// Only what concerns all cases: no usable model, no usable output folder.
pub fn predict(job: &PredictJob, observer: &dyn Observer) -> Result<PredictSummary> {
    let started = Instant::now();
    std::fs::create_dir_all(&job.folder).map_err(Error::io(&job.folder, "create the folder"))?;
    // Found out before hours of work, not after.
    drop(
        tempfile::tempfile_in(&job.folder)
            .map_err(Error::io(&job.folder, "write into the folder"))?,
    );
    let bundle = Bundle::open(&job.model)?;
    let mut cascade = Cascade::load(&bundle, &job.compute)?;
    if job.tta {
        cascade = cascade.mirrored(&bundle)?;
    }
    let context = Context {
        job,
        cascade,
        structures: bundle
            .structures()?
            .into_iter()
            .map(|s| (s.name, s.value))
            .collect(),
        model_sha256: bundle.sha256(),
        observer,
    };
    let failures_file = job.folder.join("failures.jsonl");
    if failures_file.exists() {
        std::fs::remove_file(&failures_file)
            .map_err(Error::io(&failures_file, "remove the old"))?;
    }
    let mut summary = PredictSummary {
        written: Vec::new(),
        kept: Vec::new(),
        failures: Vec::new(),
        notes: Vec::new(),
        seconds: 0.0,
        interrupted: false,
    };
    let task = observer.task("segmenting", job.cases.len() as u64, "cases");
    std::thread::scope(|scope| {
        let (to, volumes) = sync_channel(1);
        let reader = &context;
        scope.spawn(move || {
            // Ends by itself when the receiver hangs up.
            job.cases
                .iter()
                .all(|case| to.send(guarded(|| reader.read(case))).is_ok())
        });
        for case in &job.cases {
            if job.stop.load(Ordering::Relaxed) {
                summary.interrupted = true;
                break;
            }
            match guarded(|| context.finish(case, &volumes)) {
                Ok(None) => summary.kept.push(case.output.clone()),
                Ok(Some(sidecar)) => {
                    summary.written.push(case.output.clone());
                    let notes = sidecar
                        .notes
                        .into_iter()
                        .map(|note| (case.input.clone(), note));
                    summary.notes.extend(notes);
                }
                Err(error) => {
                    let failure = Failure {
                        input: case.input.clone(),
                        reason: error.to_string(),
                    };
                    observer.warn(&format!("failed: {}", failure.reason));
                    summary.failures.push(failure);
                    write_failures(&failures_file, &summary.failures)?;
                }
            }
            task.advance(1);
        }
        drop(volumes);
        Ok::<(), Error>(())
    })?;
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// A volume in memory, with the hash of the file it came from.
struct Input {
    image: NiftiImage,
    sha256: String,
    seconds: f64,
}

struct Context<'a> {
    job: &'a PredictJob<'a>,
    cascade: Cascade,
    structures: BTreeMap<String, u16>,
    model_sha256: String,
    observer: &'a dyn Observer,
}

impl Context<'_> {
    /// The case's volume; `None` if its label map is there already, whole and from this input and model.
    fn read(&self, case: &PredictCase) -> Result<Option<Input>> {
        let started = Instant::now();
        let sha256 = file_sha256(&case.input)?;
        if !self.job.overwrite && self.is_done(case, &sha256) {
            return Ok(None);
        }
        let image = read_volume(&case.input)?;
        Ok(Some(Input {
            image,
            sha256,
            seconds: started.elapsed().as_secs_f64(),
        }))
    }

    fn is_done(&self, case: &PredictCase, input_sha256: &str) -> bool {
        // The sidecar is written after its label map and removed before a new one: with it there, both are whole.
        let sidecar = std::fs::read(sidecar_path(&case.output)).unwrap_or_default();
        case.output.exists()
            && serde_json::from_slice::<Sidecar>(&sidecar).is_ok_and(|made| {
                made.input_sha256 == input_sha256
                    && made.model_sha256 == self.model_sha256
                    && made.ctseg_version == env!("CARGO_PKG_VERSION")
                    && made.cascade.looks == self.cascade.looks()
            })
    }

    /// Segments the next volume of the queue, which is `case`'s, and writes its files; `None` if they are
    /// there already.
    fn finish(
        &self,
        case: &PredictCase,
        volumes: &Receiver<Result<Option<Input>>>,
    ) -> Result<Option<Sidecar>> {
        let input = volumes.recv().unwrap_or_else(|_| {
            Err(Error::file(
                &case.input,
                "the thread that reads volumes ended early",
            ))
        })?;
        let Some(input) = input else { return Ok(None) };
        let started = Instant::now();
        let name = case_name(&case.input).unwrap_or_default();
        let (labels, mut report) = guarded(|| {
            let task = std::sync::OnceLock::new();
            let unit = self.cascade.unit();
            self.cascade.segment(&input.image.volume, &|pieces, total| {
                task.get_or_init(|| self.observer.task(&name, total as u64, unit))
                    .advance(pieces as u64);
            })
        })
        .map_err(|error| match error {
            Error::Invalid(problem) => Error::file(&case.input, problem),
            other => other,
        })?;
        report.seconds.insert("read".to_owned(), input.seconds);
        let writing = Instant::now();
        let sidecar_path = sidecar_path(&case.output);
        if sidecar_path.exists() {
            std::fs::remove_file(&sidecar_path)
                .map_err(Error::io(&sidecar_path, "remove the old"))?;
        }
        write_labels(&case.output, &labels, &input.image.header)?;
        report
            .seconds
            .insert("write".to_owned(), writing.elapsed().as_secs_f64());
        let sidecar = self.sidecar(
            case,
            &input,
            &labels,
            report,
            started.elapsed().as_secs_f64(),
        );
        let text = serde_json::to_string_pretty(&sidecar).map_err(|error| {
            Error::file(&case.output, format!("cannot describe the result: {error}"))
        })?;
        write_bytes_atomically(&sidecar_path, text.as_bytes())?;
        for note in &sidecar.notes {
            self.observer
                .warn(&format!("{}: {note}", case.input.display()));
        }
        Ok(Some(sidecar))
    }

    fn sidecar(
        &self,
        case: &PredictCase,
        input: &Input,
        labels: &LabelMap,
        cascade: CascadeReport,
        seconds: f64,
    ) -> Sidecar {
        let mut counts = vec![0u64; usize::from(u16::MAX) + 1];
        labels
            .data
            .iter()
            .for_each(|label| counts[usize::from(*label)] += 1);
        let grid = input.image.volume.grid;
        let voxel_ml = grid.voxel_volume_ml();
        let mut notes = input.image.header.warnings().to_vec();
        if input.image.non_finite > 0 {
            notes.push(format!(
                "{} voxels are not finite numbers; they were taken for air",
                input.image.non_finite
            ));
        }
        notes.extend(cascade.notes.iter().cloned());
        if labels.data.iter().all(|label| *label == 0) {
            notes.push("no structure was found; the label map is empty".to_owned());
        }
        Sidecar {
            input: case.input.clone(),
            input_sha256: input.sha256.clone(),
            model: self.job.model.clone(),
            model_sha256: self.model_sha256.clone(),
            ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.job.compute.to_string(),
            shape: grid.shape,
            spacing_mm: grid.spacing_mm(),
            orientation: grid.orientation().to_string(),
            notes,
            cascade,
            volumes_ml: self
                .structures
                .iter()
                .map(|(name, value)| (name.clone(), counts[usize::from(*value)] as f64 * voxel_ml))
                .collect(),
            structures: self.structures.clone(),
            seconds,
            peak_memory_mb: peak_memory_mb(),
        }
    }
}

fn write_failures(path: &Path, failures: &[Failure]) -> Result<()> {
    let mut lines = String::new();
    for failure in failures {
        let line = serde_json::to_string(failure)
            .map_err(|error| Error::file(path, format!("cannot list a failure: {error}")))?;
        lines += &line;
        lines.push('\n');
    }
    write_bytes_atomically(path, lines.as_bytes())
}
