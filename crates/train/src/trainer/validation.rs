//! How good a network is on the cases that were held out.

use super::case_loss::Scored;
use super::case_score::{CaseScore, case_score};
use super::job::TrainingJob;
use ctseg_base::Result;
use ctseg_base::cancel::unless_stopped;
use ctseg_core::inference::stage::input_logits;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_core::run::validation::Validation;
use ctseg_engine::distributed::process_group::Team;
use ctseg_engine::inference::Inference;
use ctseg_engine::learner::Learner;
use ctseg_engine::networks::Network;
use ctseg_image::metrics::overlap::{Overlap, Summary};

/// What the network in use reaches on `cases`, which the processes of the job's team share.
pub(super) fn validated(
    job: &TrainingJob,
    learner: &dyn Learner,
    cases: &[usize],
) -> Result<Validation> {
    let scores = learner
        .network()
        .and_then(|network| case_scores(job, network, &cases[job.team.share(cases.len())]));
    let own = job.team.together(scores)?;
    let maps = output_maps(job.source.recipe, &job.source.structures).len();
    Ok(summed_up(&of_all(&job.team, own, cases.len(), maps)?, maps))
}

/// The scores of all processes, in the order of their cases.
fn of_all(team: &Team, own: Vec<CaseScore>, cases: usize, maps: usize) -> Result<Vec<CaseScore>> {
    if team.is_alone() {
        return Ok(own);
    }
    let width = 1 + 4 * maps;
    let mut table = vec![0.0; cases * width];
    for (row, score) in table
        .chunks_mut(width)
        .skip(team.share(cases).start)
        .zip(&own)
    {
        row[0] = score.loss;
        for (to, overlap) in row[1..].chunks_mut(4).zip(&score.overlaps) {
            to.copy_from_slice(&overlap.counts().map(|count| count as f64)); // far below 2^53
        }
    }
    team.sum_f64(&mut table)?;
    let score = |row: &[f64]| CaseScore {
        overlaps: row[1..]
            .chunks(4)
            .map(|of| Overlap::of_counts([0, 1, 2, 3].map(|i| of[i] as u64)))
            .collect(),
        loss: row[0],
    };
    Ok(table.chunks(width).map(score).collect())
}

/// Segments every case of `cases` with `network` and compares.
fn case_scores(job: &TrainingJob, network: Network, cases: &[usize]) -> Result<Vec<CaseScore>> {
    let (source, compute) = (job.source, job.compute);
    let inference = Inference::new(vec![network], compute)?;
    let maps = output_maps(source.recipe, &source.structures);
    let loss = source.loss()?;
    let scored = Scored {
        recipe: source.recipe,
        loss: &loss,
        maps: &maps,
        ignore: source.dataset.ignore,
        device: &compute.device,
    };
    let mut scores = Vec::with_capacity(cases.len());
    let go_on = || {
        unless_stopped(job.stop, || {
            "validation was under way; the last checkpoint is whole".to_owned()
        })
    };
    for case in cases {
        go_on()?;
        let prepared = source.prepared(*case)?;
        let logits = input_logits(
            source.recipe,
            &inference,
            None,
            prepared.channels.view(),
            &|_| go_on(),
        )?;
        scores.push(case_score(&scored, logits.view(), prepared.labels.view())?);
    }
    Ok(scores)
}

fn summed_up(scores: &[CaseScore], maps: usize) -> Validation {
    let per_map = |score: fn(&Overlap) -> Option<f64>| -> Vec<Option<f64>> {
        let of = |map: usize| scores.iter().map(move |case| score(&case.overlaps[map]));
        (0..maps).map(|map| Summary::of(of(map)).mean).collect()
    };
    let mean = |values: &[Option<f64>]| Summary::of(values.iter().copied()).mean;
    let (dice_per_map, iou_per_map) = (per_map(Overlap::dice), per_map(Overlap::iou));
    let precision_per_map = per_map(Overlap::precision);
    let recall_per_map = per_map(Overlap::recall);
    let recall = mean(&recall_per_map);
    // Where no case holds a structure, there is nothing to overlap with: what is predicted all the same is no 0.
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
