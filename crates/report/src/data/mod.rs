//! What a report shows, read from run folders and evaluations: figures and facts; images are read case by case when
//! they are wanted.

pub mod case;
pub mod choice;
pub mod evaluation;
pub mod metric;
pub mod provenance;
pub mod run;
pub mod spread;
pub mod table;

use std::path::PathBuf;

use ctseg_base::{Error, Result};

use choice::{Shown, Wanted, shown};
use evaluation::{EvaluationFacts, Hints};
use provenance::Provenance;
use run::{RunFacts, is_run};

/// Everything but the voxels.
pub struct Report {
    pub title: String,
    pub runs: Vec<RunFacts>,
    pub evaluation: Option<EvaluationFacts>,
    pub provenance: Provenance,
    /// The cases whose images are shown.
    pub shown: Vec<Shown>,
}

impl Report {
    /// Reads run folders and at most one evaluation among `folders`. Where there are runs alone, the held-out
    /// evaluation of the last one that has any counts.
    ///
    /// # Errors
    /// A folder that is neither; several evaluations; files of theirs that are damaged; a wanted case that is none.
    pub fn read(folders: &[PathBuf], mut hints: Hints, wanted: &Wanted) -> Result<Self> {
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
                "{} and {} are both evaluations; a report is of one (and of as many runs as wanted)",
                evaluations[0].display(),
                evaluations[1].display()
            )));
        }
        let mut folder = evaluations.pop();
        if folder.is_none()
            && let Some((run, held_out)) =
                runs.iter().rev().find_map(|r| Some((r, r.evaluation()?)))
        {
            hints.reference = hints.reference.or_else(|| run.reference());
            if let Some((_, settings)) = &run.known
                && hints.reading.is_default()
            {
                hints.reading = settings.reading;
            }
            folder = Some(held_out);
        }
        let mut evaluation = folder
            .map(|folder| EvaluationFacts::read(&folder, hints))
            .transpose()?;
        if let Some(places) = evaluation.as_mut().map(|evaluation| &mut evaluation.places)
            && places.reference.is_none()
            && places.compared.is_empty()
        {
            // Nobody says what was compared with; most likely it is of the dataset that was trained on.
            places.reference = runs.iter().rev().find_map(RunFacts::reference);
        }
        let provenance = evaluation
            .as_ref()
            .map(|evaluation| Provenance::of(evaluation, &runs));
        let provenance = provenance.unwrap_or_default();
        let shown = match &evaluation {
            Some(evaluation) => shown(&evaluation.table, wanted)?,
            None => Vec::new(),
        };
        let title = title_of(folders);
        Ok(Self {
            title,
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
        true => "is neither",
    };
    Error::file(
        folder,
        format!(
            "{problem}; expected the folder of a run (with recipe.toml) or of an evaluation (with metrics.csv, see 'ctseg evaluate')"
        ),
    )
}
