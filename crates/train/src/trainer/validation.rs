//! Validation on held-out cases.

use super::case_score::{CaseScore, ScoringContext, case_score};
use super::job::TrainingJob;
use ctseg_base::Result;
use ctseg_base::cancel::check_stop;
use ctseg_core::inference::stage::input_logits;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_core::run::validation::Validation;
use ctseg_engine::inference::Inference;
use ctseg_engine::learner::Learner;
use ctseg_engine::networks::Network;
use ctseg_image::metrics::overlap::{Overlap, Summary};

/// Validates the learner's current weights on `cases`, split over the ranks.
pub(super) fn validate(
    job: &TrainingJob,
    learner: &dyn Learner,
    cases: &[usize],
) -> Result<Validation> {
    let maps = job.source.outputs();
    let width = 1 + 4 * maps;
    let rows = job.group.map_shards(cases, width, |own| {
        let scores = case_scores(job, learner.network()?, own)?;
        Ok(scores.iter().flat_map(as_row).collect())
    })?;
    let scores: Vec<CaseScore> = rows.chunks(width).map(of_row).collect();
    Ok(summarise(&scores, maps))
}

/// A score as numbers: the loss, and four counts of each output map, which are far below 2^53.
fn as_row(score: &CaseScore) -> Vec<f64> {
    let counts = score.overlaps.iter().flat_map(Overlap::counts);
    let counts = counts.map(|count| count as f64);
    std::iter::once(score.loss).chain(counts).collect()
}

/// The inverse of [`as_row`].
fn of_row(row: &[f64]) -> CaseScore {
    let counts = row[1..].chunks(4);
    let overlap = |of: &[f64]| Overlap::of_counts([0, 1, 2, 3].map(|i| of[i] as u64));
    CaseScore {
        overlaps: counts.map(overlap).collect(),
        loss: row[0],
    }
}

/// Segments every case of `cases` with `network` and scores it.
fn case_scores(job: &TrainingJob, network: Network, cases: &[usize]) -> Result<Vec<CaseScore>> {
    let (source, compute) = (job.source, job.compute);
    let inference = Inference::new(vec![network], compute)?;
    let maps = output_maps(source.recipe, &source.structures);
    let loss = source.loss()?;
    let context = ScoringContext {
        recipe: source.recipe,
        loss: &loss,
        maps: &maps,
        ignore: source.dataset.ignore,
        device: &compute.device,
    };
    let mut scores = Vec::with_capacity(cases.len());
    let check = || {
        check_stop(job.stop, || {
            "validation was in progress; the last checkpoint is complete".to_owned()
        })
    };
    for case in cases {
        check()?;
        let prepared = source.prepared(*case)?;
        let logits = input_logits(
            source.recipe,
            &inference,
            None,
            prepared.channels.view(),
            &|_| check(),
        )?;
        scores.push(case_score(&context, logits.view(), prepared.labels.view()));
    }
    Ok(scores)
}

fn summarise(scores: &[CaseScore], maps: usize) -> Validation {
    let per_map = |score: fn(&Overlap) -> Option<f64>| -> Vec<Option<f64>> {
        let of = |map: usize| scores.iter().map(move |case| score(&case.overlaps[map]));
        (0..maps).map(|map| Summary::of(of(map)).mean).collect()
    };
    let mean = |values: &[Option<f64>]| Summary::of(values.iter().copied()).mean;
    let (dice_per_map, iou_per_map) = (per_map(Overlap::dice), per_map(Overlap::iou));
    let precision_per_map = per_map(Overlap::precision);
    let recall_per_map = per_map(Overlap::recall);
    let recall = mean(&recall_per_map);
    // If no case holds any structure, the overlap is undefined rather than 0, whatever was predicted.
    let overlap = |values: &[Option<f64>]| recall.and(mean(values));
    let accuracy_per_map = per_map(Overlap::accuracy);
    Validation {
        dice: overlap(&dice_per_map),
        dice_per_map,
        iou: overlap(&iou_per_map),
        iou_per_map,
        precision: mean(&precision_per_map),
        precision_per_map,
        recall,
        recall_per_map,
        accuracy: mean(&accuracy_per_map),
        accuracy_per_map,
        loss: Summary::of(scores.iter().map(|score| Some(score.loss))).mean,
    }
}
