//! Tables of provenance: training runs, the evaluation, and the models that segmented the cases.

use serde::Serialize;

use crate::data::Report;
use crate::data::evaluation::EvaluationFacts;
use crate::data::provenance::{ModelFacts, Provenance};
use crate::data::run::RunFacts;
use ctseg_base::text::table::or_undefined;
use ctseg_base::text::words::counted;
use ctseg_core::model::manifest::StageManifest;
use ctseg_core::run::history;
use ctseg_core::run::history::EpochLine;

/// A row of a provenance table.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    pub name: String,
    pub value: String,
}

/// A provenance table.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    pub title: String,
    pub facts: Vec<Fact>,
}

#[derive(Debug, Clone, Serialize)]
pub struct RecipeText {
    pub title: String,
    pub text: String,
}

fn fact(name: &str, value: impl ToString) -> Fact {
    Fact {
        name: name.to_owned(),
        value: value.to_string(),
    }
}

/// All provenance tables of the report.
pub fn facts_of(report: &Report) -> Vec<Facts> {
    let runs = report.runs.iter().map(run_facts);
    let evaluation = report.evaluation.as_ref();
    let evaluation = evaluation.map(|e| evaluation_facts(e, &report.provenance));
    let models = report.provenance.models.iter().map(model_facts);
    runs.chain(evaluation).chain(models).collect()
}

/// The distinct recipes of the runs and of the models found.
pub fn recipes_of(report: &Report) -> Vec<RecipeText> {
    let runs = report.runs.iter().map(|run| RecipeText {
        title: format!("Recipe of {}", run.name),
        text: run.recipe_text.clone(),
    });
    let stages = report.provenance.models.iter().flat_map(|model| {
        let stages = model.stages.iter();
        stages.filter_map(move |(stage, manifest)| {
            let text = manifest.recipe.to_toml().ok()?;
            let title = format!("Recipe of stage {stage} of {}", model.path.display());
            Some(RecipeText { title, text })
        })
    });
    let mut all: Vec<RecipeText> = Vec::new();
    for recipe in runs.chain(stages) {
        if all.iter().all(|known| known.text != recipe.text) {
            all.push(recipe);
        }
    }
    all
}

fn run_facts(run: &RunFacts) -> Facts {
    let mut facts = vec![fact("folder", run.path.display())];
    if let Some((recipe, settings)) = &run.known {
        let folds: Vec<String> = recipe
            .trained_folds()
            .iter()
            .map(usize::to_string)
            .collect();
        facts.extend([
            fact("stage", format!("{} ({})", recipe.stage, recipe.name)),
            fact("network", recipe.network.name()),
            fact("loss", recipe.training.loss.name()),
            fact("optimiser", recipe.training.optimiser.kind.name()),
            fact(
                "spacing",
                format!("{} mm", joined(recipe.spacing_mm, " × ")),
            ),
            fact("intensities", recipe.described_intensities()),
            fact(
                "folds trained",
                format!("{} (of {})", folds.join(", "), recipe.folds),
            ),
            fact("dataset", settings.dataset.display()),
            fact("model", settings.model.display()),
            fact("engine", &settings.engine),
            fact("seed", settings.seed),
            fact("ctseg", &settings.ctseg_version),
        ]);
        if let Some(from) = &settings.from {
            facts.push(fact("initialised from", from.display()));
        }
    }
    for (network, lines) in &run.history {
        if let Some(text) = trained(lines) {
            facts.push(fact(network, text));
        }
    }
    for diagnosis in &run.diagnoses {
        let mut text = format!("{}: {}", diagnosis.verdict, diagnosis.because);
        for step in &diagnosis.try_next {
            text += &format!("; try {step}");
        }
        facts.push(fact(&format!("diagnosis of {}", diagnosis.network), text));
    }
    Facts {
        title: format!("Training {}", run.name),
        facts,
    }
}

fn trained(lines: &[EpochLine]) -> Option<String> {
    let last = lines.last()?;
    let best = match history::best(lines) {
        Some((epoch, dice)) => format!("{dice:.3} in epoch {epoch}"),
        None => "undefined".to_owned(),
    };
    let ended = last
        .ended
        .map_or_else(|| "not finished".to_owned(), |ended| ended.to_string());
    Some(format!(
        "{} in {}, best validation Dice {best}, last {}; {ended}",
        counted(last.epoch, "epoch"),
        duration(last.seconds),
        or_undefined(last.validation_dice, 3)
    ))
}

fn duration(seconds: f64) -> String {
    match seconds {
        short if short < 120.0 => format!("{short:.0} s"),
        some if some < 7200.0 => format!("{:.0} min", some / 60.0),
        long => format!("{:.1} h", long / 3600.0),
    }
}

fn joined<T: ToString>(values: impl IntoIterator<Item = T>, by: &str) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    values.join(by)
}

fn evaluation_facts(evaluation: &EvaluationFacts, provenance: &Provenance) -> Facts {
    let mut facts = vec![
        fact("folder", evaluation.folder.display()),
        fact("cases", evaluation.table.cases.len()),
        fact("structures", evaluation.table.structures.len()),
    ];
    if let Some(written) = evaluation.written {
        facts.push(fact("evaluated", written.strftime("%Y-%m-%d %H:%M UTC")));
    }
    let mut several = |name: &str, values: &std::collections::BTreeSet<String>| {
        if !values.is_empty() {
            facts.push(fact(name, joined(values, "; ")));
        }
    };
    several("segmented with ctseg", &provenance.versions);
    several("device", &provenance.devices);
    if provenance.without_sidecar > 0 {
        let text = format!("{} (provenance unknown)", provenance.without_sidecar);
        facts.push(fact("label maps without a sidecar", text));
    }
    Facts {
        title: "Evaluation".to_owned(),
        facts,
    }
}

fn model_facts(model: &ModelFacts) -> Facts {
    let mut facts = vec![
        fact("folder", model.path.display()),
        fact("SHA-256", &model.sha256),
        fact("cases segmented", model.cases),
    ];
    if let Some(found) = model.found.as_ref().filter(|found| **found != model.path) {
        facts.push(fact("found in", found.display()));
    }
    if let Some(reason) = &model.not_found {
        facts.push(fact("note", reason));
    }
    for (stage, manifest) in &model.stages {
        facts.push(fact(&format!("stage {stage}"), stage_text(manifest)));
    }
    Facts {
        title: "Model".to_owned(),
        facts,
    }
}

fn stage_text(manifest: &StageManifest) -> String {
    let folds = manifest.folds.iter().map(|fold| {
        format!(
            "fold {} (epoch {}, validation Dice {}, trained on {})",
            fold.fold,
            fold.epoch,
            or_undefined(fold.validation_dice, 3),
            counted(fold.trained_on.len(), "case")
        )
    });
    format!(
        "{} on {} (data {}…), seed {}, {}; {}",
        manifest.recipe.network.name(),
        manifest.dataset,
        manifest.data_fingerprint.get(..12).unwrap_or_default(),
        manifest.seed,
        manifest.engine,
        joined(folds, ", ")
    )
}
