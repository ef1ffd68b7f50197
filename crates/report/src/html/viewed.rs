//! The cases that a report shows, one after the other: read, packed for the page, drawn for papers.

use std::path::{Path, PathBuf};

use super::planes::{Planes, packed};
use crate::data::Report;
use crate::data::case::CaseImages;
use crate::data::choice::Shown;
use crate::data::evaluation::EvaluationFacts;
use crate::pictures::comparison;
use ctseg_base::Result;
use ctseg_base::atomic_file::create_folder;
use ctseg_base::cancel::guarded;
use ctseg_base::progress::Observer;
use ctseg_image::formats::LabelNames;
use ctseg_train::overlays::Comparison;

/// No case gets more of the page than this, however few there are.
const MOST_OF_ONE: usize = 6 << 20;

/// One case of the page.
pub struct Viewed {
    pub case: String,
    pub shown: Shown,
    /// None where its images cannot be shown.
    pub planes: Option<Planes>,
    pub notes: Vec<String>,
    /// What is missing, in words.
    pub problems: Vec<String>,
    /// The picture for papers.
    pub picture: Option<PathBuf>,
}

/// Reads one case after the other; only one is in memory at a time. What cannot be shown is said.
pub fn viewed(
    report: &Report,
    pictures: &Path,
    most_bytes: usize,
    observer: &dyn Observer,
) -> Vec<Viewed> {
    let Some(evaluation) = &report.evaluation else {
        return Vec::new();
    };
    let each = (most_bytes / report.shown.len().max(1)).min(MOST_OF_ONE);
    let task = observer.task("pictures", report.shown.len() as u64, "cases");
    let cases = report.shown.iter().map(|shown| {
        let viewed = view(evaluation, shown, pictures, each);
        for problem in &viewed.problems {
            observer.warn(&format!("not shown: {problem}"));
        }
        task.advance(1);
        viewed
    });
    cases.collect()
}

fn view(evaluation: &EvaluationFacts, shown: &Shown, pictures: &Path, most_bytes: usize) -> Viewed {
    let case = evaluation.table.cases[shown.case].clone();
    let mut viewed = Viewed {
        shown: shown.clone(),
        planes: None,
        notes: Vec::new(),
        problems: Vec::new(),
        picture: None,
        case,
    };
    let structures = &evaluation.table.structures;
    let images = match guarded(|| evaluation.places.load(&viewed.case, structures)) {
        Ok(images) => images,
        Err(error) => {
            viewed.problems.push(error.to_string());
            return viewed;
        }
    };
    viewed.notes.clone_from(&images.notes);
    match guarded(|| packed(&images, structures, most_bytes)) {
        Ok(planes) => viewed.planes = Some(planes),
        Err(error) => viewed.problems.push(error.to_string()),
    }
    match guarded(|| drawn(evaluation, &viewed, &images, pictures)) {
        Ok(path) => viewed.picture = Some(path),
        Err(error) => viewed.problems.push(error.to_string()),
    }
    viewed
}

/// The four-panel picture of a case.
fn drawn(
    evaluation: &EvaluationFacts,
    viewed: &Viewed,
    images: &CaseImages,
    pictures: &Path,
) -> Result<PathBuf> {
    let structures = evaluation.table.structures.iter();
    let names: LabelNames = structures.map(|s| (s.value, s.name.clone())).collect();
    let score = viewed.shown.score;
    let score = score.map_or_else(String::new, |score| format!(", Dice {score:.3}"));
    let title = format!("{} case {}{score}", viewed.shown.rank, viewed.case);
    create_folder(pictures)?;
    let name = format!("{}_{}", viewed.shown.rank, viewed.case);
    // Positions keep names apart that are the same in plain letters.
    let name = format!("{}_{}.png", viewed.shown.case, plain(&name));
    let path = pictures.join(name);
    comparison::draw(
        &path,
        &Comparison {
            title: &title,
            volume: &images.volume,
            reference: &images.reference,
            prediction: &images.prediction,
            names: &names,
        },
    )?;
    Ok(path)
}

/// Letters, digits and `-._` alone, as file names and addresses need no care for; 80 of them at most.
pub fn plain(name: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() || "-._".contains(letter) => letter,
        _ => '_',
    };
    name.chars().map(letter).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn foreign_names_make_plain_file_names() {
        assert_eq!(plain("worst_a/../b c<é>"), "worst_a_.._b_c___");
        assert_eq!(plain(&"x".repeat(200)).len(), 80);
    }
}
