//! Preparing a model for inference in 8-bit integers: the values that its convolutions take in are recorded on
//! some of the cases that it was trained on, kept in the model, and the result is compared with the model as it was.

use std::path::PathBuf;

use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::content::image_sha256;
use ctseg_core::dataset::{Dataset, LabelSource};
use ctseg_core::inference::cascade::Cascade;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::known_cases::KnownCases;
use ctseg_engine::device::Compute;
use ctseg_engine::precision::Precision;
use ctseg_image::metrics::overlap::overlaps;

/// What to calibrate, on what.
pub struct CalibrateJob {
    pub model: PathBuf,
    pub dataset: Dataset,
    /// How many cases are looked at, and how many are compared.
    pub cases: usize,
    /// Computes in bf16 or f32; a CPU by libtorch.
    pub compute: Compute,
}

/// Both ways side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrateSummary {
    /// Cases whose values were recorded.
    pub recorded: Vec<String>,
    /// Cases that were compared: the test set, or those that the first fold was not trained on.
    pub compared: Vec<String>,
    /// Names of the structures.
    pub structures: Vec<String>,
    pub plain: Way,
    pub int8: Way,
}

/// How the model does in one precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    pub precision: Precision,
    /// Mean over the compared cases, for each structure; none where no case has it.
    pub dice: Vec<Option<f64>>,
    /// Of all networks on all compared cases, without reading and resampling.
    pub seconds: f64,
}

impl Way {
    /// Over the structures.
    pub fn mean_dice(&self) -> Option<f64> {
        mean(self.dice.iter().copied().flatten())
    }
}

/// Records, writes the model anew, compares.
///
/// # Errors
/// No model, a device without 8-bit integers, a dataset without cases that fit, unreadable cases.
pub fn calibrate(job: &CalibrateJob, observer: &dyn Observer) -> Result<CalibrateSummary> {
    let bundle = Bundle::open(&job.model)?;
    let structures = bundle.structures()?;
    if structures != job.dataset.structures {
        return Err(Error::file(
            &job.model,
            "the model marks other structures than the dataset has; name the dataset that it was trained on with --data",
        ));
    }
    let (seen, unseen) = cases(&bundle, &job.dataset, job.cases);
    let unseen = never_seen(&bundle, job, unseen, observer)?;
    if seen.is_empty() {
        return Err(Error::file(
            &job.model,
            "none of the dataset's cases was trained on; name the dataset that the model was trained on with --data",
        ));
    }
    let cascade = Cascade::load(&bundle, &job.compute)?.recording()?;
    let task = observer.task("recording", seen.len() as u64, "cases");
    for index in &seen {
        let image = job.dataset.load_image(&job.dataset.cases[*index])?;
        cascade.segment(&image.volume, &|_, _| Ok(()))?;
        task.advance(1);
    }
    drop(task);
    bundle.keep_input_ranges(&cascade.recorded())?;
    drop(cascade);
    let bundle = Bundle::open(&job.model)?;
    let int8 = Compute {
        precision: Precision::Int8,
        ..job.compute.clone()
    };
    let names = |indices: &[usize]| {
        let ids = indices
            .iter()
            .map(|index| job.dataset.cases[*index].id.clone());
        ids.collect()
    };
    Ok(CalibrateSummary {
        recorded: names(&seen),
        compared: names(&unseen),
        structures: structures.iter().map(|s| s.name.clone()).collect(),
        plain: way(&bundle, job, &job.compute, &unseen, observer)?,
        int8: way(&bundle, job, &int8, &unseen, observer)?,
    })
}

/// Cases to record on, evenly spread over those that stage 2's first network (or stage 1's) was trained on, and cases
/// to compare on; indices, at most `count` of each.
fn cases(bundle: &Bundle, dataset: &Dataset, count: usize) -> (Vec<usize>, Vec<usize>) {
    let stage = bundle.stage(2).or_else(|| bundle.stage(1));
    let fold = stage.and_then(|stage| stage.folds.first());
    let of = |ids: &[String]| -> Vec<usize> {
        let labelled = |index: &usize| {
            let case = &dataset.cases[*index];
            case.labels != LabelSource::None && ids.contains(&case.id)
        };
        let all: Vec<usize> = (0..dataset.cases.len()).filter(labelled).collect();
        let count = count.min(all.len());
        (0..count).map(|k| all[k * all.len() / count]).collect()
    };
    let Some(fold) = fold else {
        return (Vec::new(), Vec::new());
    };
    let test = of(&dataset.test);
    let unseen = if test.is_empty() {
        of(&fold.held_out)
    } else {
        test
    };
    (of(&fold.trained_on), unseen)
}

/// Those of `cases` whose image the first network was not trained on under another name.
fn never_seen(
    bundle: &Bundle,
    job: &CalibrateJob,
    cases: Vec<usize>,
    observer: &dyn Observer,
) -> Result<Vec<usize>> {
    let stage = bundle.stage(2).or_else(|| bundle.stage(1));
    let Some((stage, fold)) = stage.and_then(|stage| Some((stage, stage.folds.first()?))) else {
        return Ok(cases);
    };
    let known = KnownCases::new(stage);
    let mut unseen = Vec::new();
    for index in cases {
        let case = &job.dataset.cases[index];
        let image = job.dataset.load_image(case)?;
        let sha256 = image_sha256(&image.volume);
        if known.is_trained_on(fold, &case.id, &sha256) {
            observer.warn(&format!(
                "{}: not compared, the model was trained on this image as {}",
                case.id,
                known.names_of(&sha256).join(", ")
            ));
        } else {
            unseen.push(index);
        }
    }
    Ok(unseen)
}

fn way(
    bundle: &Bundle,
    job: &CalibrateJob,
    compute: &Compute,
    cases: &[usize],
    observer: &dyn Observer,
) -> Result<Way> {
    let cascade = Cascade::load(bundle, compute)?;
    let values: Vec<u16> = bundle.structures()?.iter().map(|s| s.value).collect();
    let mut dice: Vec<Vec<f64>> = vec![Vec::new(); values.len()];
    let mut seconds = 0.0;
    let task = observer.task(
        &format!("predicting in {}", compute.precision),
        cases.len() as u64,
        "cases",
    );
    for index in cases {
        let case = job.dataset.load(&job.dataset.cases[*index])?;
        let (labels, report) = cascade.segment(&case.volume, &|_, _| Ok(()))?;
        seconds += report.seconds.get("stage2").copied().unwrap_or_default();
        for (all, overlap) in dice
            .iter_mut()
            .zip(overlaps(&labels, &case.labels, &values)?)
        {
            all.extend(overlap.dice());
        }
        task.advance(1);
    }
    Ok(Way {
        precision: compute.precision,
        dice: dice.into_iter().map(mean).collect(),
        seconds,
    })
}

fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values
        .into_iter()
        .fold((0.0, 0usize), |(sum, count), value| {
            (sum + value, count + 1)
        });
    (count > 0).then(|| sum / count as f64)
}
