//! Many volumes in, many label maps out: one bad case never costs another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::bundle::{Bundle, file_sha256};
use super::cascade::{Attention, Cascade, common_structures};
use super::demand::within;
use super::guard::guarded;
use super::inputs::PredictCase;
use super::observer::Observer;
use super::outputs::Outputs;
use super::probability_file::{ProbabilityFile, ProbabilityKind};
use super::restoring::Probabilities;
use super::sidecar::{Making, ModelUsed, Sidecar, whole_of};
use super::statistics_table::write_statistics;
use crate::arrays::nifti::{NiftiImage, case_name, read_volume};
use crate::error::{Error, Result};
use crate::files::write_bytes_atomically;
use crate::tensors::device::Compute;

/// What to segment, with what.
pub struct PredictJob<'a> {
    pub cases: Vec<PredictCase>,
    /// Where `failures.jsonl` goes if a case fails.
    pub folder: PathBuf,
    /// One model, or several whose logits are averaged, see [`Cascade::segment`].
    pub models: Vec<PathBuf>,
    pub compute: Compute,
    /// Whether stage 2 looks at mirror images too, see [`super::mirroring`].
    pub tta: bool,
    /// Whether label maps are cleaned up as the model asks for.
    pub postprocess: bool,
    /// Whether label maps that are whole and of this input and model are made again.
    pub overwrite: bool,
    /// Most memory that the process may take, in bytes; see [`within`].
    pub max_ram: Option<u64>,
    /// Whether probabilities are kept beside the label maps, and how.
    pub probabilities: Option<ProbabilityKind>,
    /// Which files each case gives.
    pub outputs: Outputs,
    /// Whether `statistics.csv` is written into the folder at the end.
    pub statistics: bool,
    /// Is shown where stage 2's attention gates look in each case that is segmented.
    pub on_attention: Option<&'a OnAttention>,
    /// Set from outside to stop after the case under way.
    pub stop: &'a AtomicBool,
}

/// Hears of what a case's attention gates look at.
pub type OnAttention = dyn Fn(&PredictCase, &Attention) -> Result<()> + Sync;

/// A case that failed, as a line of `failures.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub input: PathBuf,
    pub reason: String,
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
    let bundles = job.models.iter().map(|model| Bundle::open(model));
    let bundles = bundles.collect::<Result<Vec<_>>>()?;
    let structures = common_structures(&bundles)?;
    let known = structures.iter().map(|s| (s.name.clone(), s.value));
    let chosen = job.outputs.chosen(known.collect())?;
    let mut cascade = Cascade::load_all(&bundles, &job.compute)?;
    if job.tta {
        cascade = cascade.mirrored(&structures)?;
    }
    if !job.postprocess {
        cascade = cascade.without_postprocessing();
    }
    if let Some(limit) = job.max_ram {
        let inputs = job.cases.iter().map(|case| case.input.clone());
        cascade = within(cascade, &inputs.collect::<Vec<_>>(), limit)?;
    }
    let used = |bundle: &Bundle| ModelUsed {
        model: bundle.path.clone(),
        sha256: bundle.sha256(),
    };
    let models: Vec<ModelUsed> = bundles.iter().map(used).collect();
    let context = Context {
        job,
        cascade,
        structures: chosen,
        model_sha256: hash_of_all(&models),
        models,
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
        let (wanted, wishes) = sync_channel(1);
        let reader = &context;
        scope.spawn(move || {
            // Ends by itself when the other side hangs up.
            job.cases.iter().all(|case| {
                // Memory that is counted holds one volume at a time.
                let waited = job.max_ram.is_none() || wishes.recv().is_ok();
                waited && to.send(guarded(|| reader.read(case))).is_ok()
            })
        });
        for case in &job.cases {
            if job.stop.load(Ordering::Relaxed) {
                summary.interrupted = true;
                break;
            }
            let _ = wanted.try_send(()); // nobody listens where nothing is counted
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
    if job.statistics {
        write_statistics(&job.folder)?;
    }
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
    models: Vec<ModelUsed>,
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
        whole_of(&case.output, input_sha256, &self.model_sha256).is_some_and(|made| {
            made.cascade.looks == self.cascade.looks()
                && made.cascade.postprocessing == *self.cascade.postprocessing()
                && self
                    .job
                    .outputs
                    .are_there(&case.output, &made, &self.structures)
        }) && self
            .job
            .probabilities
            .is_none_or(|kind| kind.path(&case.output).exists())
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
        let mut kept = self.probability_file(case, &input.image)?;
        let (labels, mut report) = guarded(|| {
            let task = std::sync::OnceLock::new();
            let unit = self.cascade.unit();
            let on_pieces = |pieces: usize, total: usize| {
                task.get_or_init(|| self.observer.task(&name, total as u64, unit))
                    .advance(pieces as u64);
                Ok(())
            };
            let heard = kept.iter_mut().map(|file| file as &mut dyn Probabilities);
            self.cascade
                .segment_telling(&input.image.volume, &on_pieces, heard.collect())
        })
        .map_err(|error| match error {
            Error::Invalid(problem) => Error::file(&case.input, problem),
            other => other,
        })?;
        report.seconds.insert("read".to_owned(), input.seconds);
        if let Some(file) = kept {
            let saving = Instant::now();
            file.finish(&input.image.header)?;
            let seconds = saving.elapsed().as_secs_f64();
            report.seconds.insert("probabilities".to_owned(), seconds);
        }
        if let Some(on_attention) = self.job.on_attention {
            let attention = self.cascade.attention(&input.image.volume)?;
            on_attention(case, &attention)?;
        }
        let making = Making {
            input: &case.input,
            input_sha256: &input.sha256,
            image: &input.image,
            models: &self.models,
            model_sha256: &self.model_sha256,
            device: self.job.compute.to_string(),
            structures: &self.structures,
            outputs: &self.job.outputs,
            started,
        };
        let sidecar = making.written(&case.output, labels, report)?;
        for note in &sidecar.notes {
            self.observer
                .warn(&format!("{}: {note}", case.input.display()));
        }
        Ok(Some(sidecar))
    }
}

impl Context<'_> {
    fn probability_file(
        &self,
        case: &PredictCase,
        image: &NiftiImage,
    ) -> Result<Option<ProbabilityFile>> {
        let Some(kind) = self.job.probabilities else {
            return Ok(None);
        };
        let grid = image.volume.grid;
        ProbabilityFile::create(kind, &case.output, self.cascade.maps(), &grid).map(Some)
    }
}

/// The hash of the one model, or one that follows from those of all.
fn hash_of_all(models: &[ModelUsed]) -> String {
    match models {
        [one] => one.sha256.clone(),
        several => {
            let hashes: Vec<&str> = several.iter().map(|model| model.sha256.as_str()).collect();
            format!("{:x}", Sha256::digest(hashes.join("\n")))
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
