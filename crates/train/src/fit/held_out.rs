//! Evaluation of held-out cases after the folds are trained.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::json;

use super::job::{FitJob, FitSummary};
use super::tracking::FitReporter;
use crate::choose_postprocessing::{PostprocessingChoice, PostprocessingSearch};
use crate::cross_validation::{OutOfFold, OutOfFoldJob, predict_out_of_fold};
use crate::overlays::best_and_worst;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_core::inference::coarse_result::StageOneResult;
use ctseg_core::inference::coarse_stage::{RoiQuality, out_of_fold_results};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::postprocessing::Postprocessing;
use ctseg_core::run::folder::PLOTS;

/// The quality of the new stage 1's regions on held-out cases.
pub(super) fn held_out_roi_quality(job: &FitJob, observer: &dyn Observer) -> Result<RoiQuality> {
    let bundle = Bundle::open(&job.model)?;
    let held_out: Vec<&String> = bundle
        .stage(1)
        .iter()
        .flat_map(|stage| &stage.folds)
        .flat_map(|fold| &fold.held_out)
        .collect();
    let mut cases = job.dataset.training_cases();
    cases.retain(|case| held_out.contains(&&job.dataset.cases[*case].id));
    let results = out_of_fold_results(
        &bundle,
        &job.dataset,
        &cases,
        false,
        &job.compute,
        job.stop,
        observer,
    )?;
    RoiQuality::measured(&results, &job.dataset, job.stop)
}

/// The results on the held-out cases.
pub(super) struct HeldOut {
    /// Predictions, unless the recipe disables them.
    pub out_of_fold: Option<OutOfFold>,
    /// Chosen on them.
    pub postprocessing: Option<Postprocessing>,
}

/// Predicts the held-out cases on their own grids, each with the network that was not trained on it. For a stage that
/// produces the final label maps, also chooses the post-processing on them and writes it into the model.
pub(super) fn out_of_fold_and_postprocessing(
    reporter: &FitReporter,
    stage_one: &BTreeMap<usize, StageOneResult>,
    started: Instant,
) -> Result<HeldOut> {
    let FitReporter {
        job, run, observer, ..
    } = *reporter;
    let recipe = &job.recipe;
    let bundle = Bundle::open(&job.model)?;
    let mut predicted = None;
    if recipe.out_of_fold {
        let out_of_fold = OutOfFoldJob {
            bundle: &bundle,
            stage: recipe.stage,
            dataset: &job.dataset,
            folds: &recipe.trained_folds(),
            stage_one,
            folder: run.path().join("out_of_fold"),
            compute: &job.compute,
            stop: job.stop,
            deadline: job.max_time.map(|limit| started + limit),
        };
        predicted = Some(predict_out_of_fold(&out_of_fold, observer)?);
    }
    if recipe.stage == 1 {
        return Ok(HeldOut {
            out_of_fold: predicted,
            postprocessing: None,
        });
    }
    let chosen = match predicted.as_ref().filter(|predicted| predicted.complete) {
        Some(predicted) => {
            let search = PostprocessingSearch {
                dataset: &job.dataset,
                maps: &predicted.maps,
                recipe,
                stop: job.stop,
            };
            let PostprocessingChoice { chosen, tried } = search.choose(observer)?;
            run.write_json(
                "postprocessing.json",
                &json!({"chosen": chosen, "tried": tried}),
            )?;
            chosen
        }
        None => Postprocessing::by_hand(recipe),
    };
    bundle.set_postprocessing(chosen.clone())?;
    Ok(HeldOut {
        out_of_fold: predicted,
        postprocessing: chosen,
    })
}

/// Draws the best and worst held-out case, if there are predictions.
pub(super) fn draw_best_and_worst(reporter: &FitReporter, summary: &FitSummary) {
    let job = reporter.job;
    let (Some(predicted), Some(draw)) = (&summary.out_of_fold, job.draw_comparison) else {
        return;
    };
    let folder = reporter.run.path().join(PLOTS);
    if let Err(error) = best_and_worst(&job.dataset, predicted, &folder, draw) {
        reporter.observer.warn(&error.to_string()); // a missing picture is not worth failing a training
    }
}
