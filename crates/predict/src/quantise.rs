//! Static quantisation for int8 inference: records the input ranges of a model's convolutions on some of its training
//! cases, saves them in the model, and compares the result with the original precision.

use std::path::PathBuf;

use ctseg_base::mean::mean;
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

pub struct QuantiseJob {
    pub model: PathBuf,
    pub dataset: Dataset,
    /// Number of cases to record on, and to compare on.
    pub cases: usize,
    /// In bf16 or f32; on CPUs with libtorch.
    pub compute: Compute,
}

/// The comparison of both precisions.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantiseSummary {
    /// Cases that input ranges were recorded on.
    pub recorded: Vec<String>,
    /// Cases that were compared: the test set, or those that the first fold was not trained on.
    pub compared: Vec<String>,
    pub structures: Vec<String>,
    pub plain: PrecisionResult,
    pub int8: PrecisionResult,
}

/// Scores of the model in one precision.
#[derive(Debug, Clone, PartialEq)]
pub struct PrecisionResult {
    pub precision: Precision,
    /// Mean Dice over the compared cases, for each structure; `None` if no case has it.
    pub dice: Vec<Option<f64>>,
    /// Total time of the forward passes, without reading and resampling.
    pub seconds: f64,
}

impl PrecisionResult {
    /// Mean over the structures.
    pub fn mean_dice(&self) -> Option<f64> {
        mean(self.dice.iter().copied().flatten())
    }
}

/// Records input ranges, saves them in the model, and compares the precisions.
///
/// # Errors
/// No model; a device without int8; a dataset without the model's training cases; unreadable cases.
pub fn quantise(job: &QuantiseJob, observer: &dyn Observer) -> Result<QuantiseSummary> {
    let bundle = Bundle::open(&job.model)?;
    let structures = bundle.structures()?;
    if structures != job.dataset.structures {
        return Err(Error::file(
            &job.model,
            "the model has other structures than the dataset; pass the dataset that it was trained on with --data",
        ));
    }
    let (training, unseen) = cases(&bundle, &job.dataset, job.cases);
    let unseen = not_trained_on(&bundle, job, unseen, observer)?;
    if training.is_empty() {
        return Err(Error::file(
            &job.model,
            "the model was not trained on any case of the dataset; pass the dataset that it was trained on with --data",
        ));
    }
    let cascade = Cascade::load(&bundle, &job.compute)?.recording()?;
    let task = observer.task("recording", training.len() as u64, "cases");
    for index in &training {
        let image = job.dataset.load_image(&job.dataset.cases[*index])?;
        cascade.segment(&image.volume, &|_, _| Ok(()))?;
        task.advance(1);
    }
    drop(task);
    bundle.save_input_ranges(&cascade.recorded())?;
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
    Ok(QuantiseSummary {
        recorded: names(&training),
        compared: names(&unseen),
        structures: structures.iter().map(|s| s.name.clone()).collect(),
        plain: evaluate(&bundle, job, &job.compute, &unseen, observer)?,
        int8: evaluate(&bundle, job, &int8, &unseen, observer)?,
    })
}

/// Indices of cases to record on, evenly spread over the training cases of stage 2's first network (or stage 1's),
/// and of cases to compare on; at most `count` of each.
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

/// Removes the cases whose image the first network was trained on under another name.
fn not_trained_on(
    bundle: &Bundle,
    job: &QuantiseJob,
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
                "{}: not compared, because the model was trained on the same image as {}",
                case.id,
                known.names_of(&sha256).join(", ")
            ));
        } else {
            unseen.push(index);
        }
    }
    Ok(unseen)
}

fn evaluate(
    bundle: &Bundle,
    job: &QuantiseJob,
    compute: &Compute,
    cases: &[usize],
    observer: &dyn Observer,
) -> Result<PrecisionResult> {
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
    Ok(PrecisionResult {
        precision: compute.precision,
        dice: dice.into_iter().map(mean).collect(),
        seconds,
    })
}
