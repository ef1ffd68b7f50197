//! `ctseg inspect RUN`: progress of a run and diagnosis of its curves.

use std::path::Path;

use serde_json::json;

use crate::cli::commands::fit;
use crate::cli::print::Description;
use ctseg_base::Result;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::{score, table};
use ctseg_base::text::words::counted;
use ctseg_core::run::folder::RunFolder;
use ctseg_core::run::history;
use ctseg_core::run::history::EpochLine;
use ctseg_train::diagnosis::{Diagnosis, diagnose};

/// The run in folder `path`. Nothing in the folder is changed.
pub fn described(path: &Path) -> Result<Description> {
    let (recipe, settings) = RunFolder::read(path)?;
    let history = history::read(path)?;
    let mut text = format!(
        "run {} (ctseg {})\n  recipe   {} (stage {}): {}, {}, {}, {} at most\n  dataset  {}\n  model    {}\n  engine   {}, seed {}\n",
        path.shown(),
        settings.ctseg_version.shown(),
        recipe.name.shown(),
        recipe.stage,
        recipe.network.name(),
        recipe.training.loss.name(),
        recipe.training.optimiser.kind.name(),
        counted(recipe.training.epochs, "epoch"),
        settings.dataset.shown(),
        settings.model.shown(),
        settings.engine.shown(),
        settings.seed,
    );
    if history.is_empty() {
        text += "  no epoch finished yet\n";
    } else {
        let header = [
            "network",
            "epochs",
            "best",
            "Dice",
            "last Dice",
            "loss",
            "seconds",
            "ended",
        ];
        let rows: Vec<Vec<String>> = history
            .iter()
            .map(|(name, lines)| row(name, lines))
            .collect();
        text += &table(&header, &rows);
    }
    let diagnoses: Vec<Diagnosis> = history
        .iter()
        .map(|(network, lines)| diagnose(network, lines, &recipe))
        .collect();
    for diagnosis in &diagnoses {
        text += &fit::described(diagnosis);
    }
    let json = json!({
        "kind": "run", "path": path, "recipe": recipe, "settings": settings, "history": history,
        "diagnoses": diagnoses,
    });
    Ok(Description { text, json })
}

fn row(name: &str, lines: &[EpochLine]) -> Vec<String> {
    let best = history::best(lines);
    let last = lines.last();
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    vec![
        name.to_owned(),
        or_dash(last.map(|line| line.epoch.to_string())),
        or_dash(best.map(|(epoch, _)| epoch.to_string())),
        score(best.map(|(_, dice)| dice)),
        score(last.and_then(|line| line.validation_dice)),
        score(last.and_then(|line| line.loss)),
        or_dash(last.map(|line| format!("{:.0}", line.seconds))),
        or_dash(last.map(|line| {
            line.ended
                .map_or_else(|| "not yet".to_owned(), |ended| ended.to_string())
        })),
    ]
}
