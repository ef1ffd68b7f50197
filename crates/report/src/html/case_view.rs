//! Prepares the displayed cases one after the other: reads, packs for the page, and draws pictures for publications.

use std::path::{Path, PathBuf};

use super::planes::{Planes, packed};
use crate::data::Report;
use crate::data::case::CaseImages;
use crate::data::case_selection::SelectedCase;
use crate::data::evaluation::EvaluationFacts;
use crate::pictures::comparison;
use ctseg_base::Result;
use ctseg_base::atomic_file::create_folder;
use ctseg_base::cancel::catch_panic;
use ctseg_base::progress::Observer;
use ctseg_image::formats::LabelNames;
use ctseg_train::overlays::Comparison;

/// Size limit of one case in bytes, however few there are.
const MAX_CASE_BYTES: usize = 6 << 20;

pub struct CaseView {
    pub case: String,
    pub shown: SelectedCase,
    /// `None` if its images cannot be shown.
    pub planes: Option<Planes>,
    pub notes: Vec<String>,
    /// Messages about missing content.
    pub problems: Vec<String>,
    /// The picture for publications.
    pub picture: Option<PathBuf>,
}

/// Prepares the cases, with one in memory at a time. Cases that cannot be shown are reported as warnings.
pub fn case_views(
    report: &Report,
    pictures: &Path,
    max_bytes: usize,
    observer: &dyn Observer,
) -> Vec<CaseView> {
    let Some(evaluation) = &report.evaluation else {
        return Vec::new();
    };
    let each = (max_bytes / report.shown.len().max(1)).min(MAX_CASE_BYTES);
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

fn view(
    evaluation: &EvaluationFacts,
    shown: &SelectedCase,
    pictures: &Path,
    max_bytes: usize,
) -> CaseView {
    let case = evaluation.table.cases[shown.case].clone();
    let mut viewed = CaseView {
        shown: shown.clone(),
        planes: None,
        notes: Vec::new(),
        problems: Vec::new(),
        picture: None,
        case,
    };
    let structures = &evaluation.table.structures;
    let images = match catch_panic(|| evaluation.files.load(&viewed.case, structures)) {
        Ok(images) => images,
        Err(error) => {
            viewed.problems.push(error.to_string());
            return viewed;
        }
    };
    viewed.notes.clone_from(&images.notes);
    match catch_panic(|| packed(&images, structures, max_bytes)) {
        Ok(planes) => viewed.planes = Some(planes),
        Err(error) => viewed.problems.push(error.to_string()),
    }
    match catch_panic(|| drawn(evaluation, &viewed, &images, pictures)) {
        Ok(path) => viewed.picture = Some(path),
        Err(error) => viewed.problems.push(error.to_string()),
    }
    viewed
}

/// The four-panel picture of a case.
fn drawn(
    evaluation: &EvaluationFacts,
    viewed: &CaseView,
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
    // The index keeps names unique after characters are replaced.
    let name = format!("{}_{}.png", viewed.shown.case, safe_file_name(&name));
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

/// The name with all but letters, digits and `-._` replaced, safe in file names and URLs; at most 80 characters.
pub fn safe_file_name(name: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() || "-._".contains(letter) => letter,
        _ => '_',
    };
    name.chars().map(letter).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::safe_file_name;

    #[test]
    fn foreign_names_make_safe_file_names() {
        assert_eq!(safe_file_name("worst_a/../b c<é>"), "worst_a_.._b_c___");
        assert_eq!(safe_file_name(&"x".repeat(200)).len(), 80);
    }
}
