//! The content of a report, read from run folders and evaluations. Images are read later, case by case.

pub mod box_plot;
pub mod case;
pub mod case_selection;
pub mod evaluation;
pub mod metric;
pub mod provenance;
pub mod run;
pub mod table;

use std::path::PathBuf;

use ctseg_base::{Error, Result};

use case_selection::{CaseSelection, SelectedCase, select_cases};
use evaluation::{EvaluationFacts, EvaluationSources};
use provenance::Provenance;
use run::{RunFacts, is_run};

/// The content of a report except the voxels.
pub struct Report {
    pub title: String,
    pub runs: Vec<RunFacts>,
    pub evaluation: Option<EvaluationFacts>,
    pub provenance: Provenance,
    /// The cases whose images are shown.
    pub shown: Vec<SelectedCase>,
}

impl Report {
    /// Reads run folders and at most one evaluation among `folders`. Without an evaluation, the held-out evaluation of
    /// the last run that has one is used.
    ///
    /// # Errors
    /// A folder that is neither; several evaluations; damaged files; an unknown case in `selection`.
    pub fn read(
        folders: &[PathBuf],
        mut sources: EvaluationSources,
        selection: &CaseSelection,
    ) -> Result<Self> {
        let (mut runs, mut evaluations) = (Vec::new(), Vec::new());
        for folder in folders {
            if is_run(folder) {
                runs.push(RunFacts::read(folder)?);
            } else if folder.join(table::FILE).is_file() {
                evaluations.push(folder.clone());
            } else {
                return Err(neither(folder));
            }
        }
        if evaluations.len() > 1 {
            return Err(Error::usage(format!(
                "{} and {} are both evaluations; expected at most one evaluation and any number of runs",
                evaluations[0].display(),
                evaluations[1].display()
            )));
        }
        let mut folder = evaluations.pop();
        if folder.is_none()
            && let Some((run, held_out)) =
                runs.iter().rev().find_map(|r| Some((r, r.evaluation()?)))
        {
            sources.reference = sources.reference.or_else(|| run.reference());
            if let Some((_, settings)) = &run.known
                && sources.reading.is_default()
            {
                sources.reading = settings.reading;
            }
            folder = Some(held_out);
        }
        let mut evaluation = folder
            .map(|folder| EvaluationFacts::read(&folder, sources))
            .transpose()?;
        if let Some(files) = evaluation.as_mut().map(|evaluation| &mut evaluation.files)
            && files.reference.is_none()
            && files.compared.is_empty()
        {
            // The reference is not recorded; the training dataset is the most likely one.
            files.reference = runs.iter().rev().find_map(RunFacts::reference);
        }
        let provenance_of = |evaluation: &EvaluationFacts| Provenance::of(evaluation, &runs);
        let provenance = evaluation.as_ref().map(provenance_of).unwrap_or_default();
        let shown = match &evaluation {
            Some(evaluation) => select_cases(&evaluation.table, selection)?,
            None => Vec::new(),
        };
        Ok(Self {
            title: title_of(folders),
            runs,
            evaluation,
            provenance,
            shown,
        })
    }
}

fn title_of(folders: &[PathBuf]) -> String {
    let whole = folders.last().and_then(|folder| folder.canonicalize().ok());
    let name = whole.as_ref().and_then(|folder| folder.file_name());
    name.map_or_else(
        || "ctseg".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn neither(folder: &std::path::Path) -> Error {
    let problem = match folder.exists() {
        false => "does not exist",
        true => "is neither a run nor an evaluation",
    };
    Error::file(
        folder,
        format!(
            "{problem}; expected the folder of a run (with recipe.toml) or of an evaluation (with metrics.csv, see 'ctseg evaluate')"
        ),
    )
}
