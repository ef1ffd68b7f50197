//! Checks a dataset before training and reports every problem at once.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::case_integrity::CaseCheck;
use super::content::{CaseContent, duplicate_images};
use super::problem::{CaseNote, CaseProblem, CheckDepth};
use super::{Case, Dataset};
use ctseg_base::text::words::{counted, listed};
use ctseg_base::{Error, Result};
use ctseg_image::formats::case_name;

/// What [`Dataset::check`] found; problems and notes in the order of the cases.
#[derive(Debug, Clone)]
pub struct CheckReport {
    pub dataset: String,
    /// Number of cases checked.
    pub cases: usize,
    pub problems: Vec<CaseProblem>,
    pub notes: Vec<CaseNote>,
    /// Of the cases whose voxels were read.
    pub contents: Vec<CaseContent>,
}

impl CheckReport {
    /// The notes, or an error that summarises the problems (print `problems` first).
    pub fn into_result(self) -> Result<Vec<CaseNote>> {
        if self.problems.is_empty() {
            return Ok(self.notes);
        }
        let bad: BTreeSet<&str> = self.problems.iter().map(|p| p.case.as_str()).collect();
        Err(Error::invalid(format!(
            "dataset '{}': {} in {} of {}; repair or remove the files named above",
            self.dataset,
            counted(self.problems.len(), "problem"),
            bad.len().min(self.cases),
            counted(self.cases, "case"),
        )))
    }
}

impl Dataset {
    /// Reads every label map and every image's header (with [`CheckDepth::Voxels`] every image too) on all
    /// cores, and lists every problem.
    ///
    /// Problems: unreadable or missing files, image and labels on different grids (by
    /// [`Reading::grid_tolerance`](super::Reading::grid_tolerance)), unknown label values, masks with several values,
    /// training cases without labels, duplicate ids, label files without an image, and patients (where voxels
    /// are read also images) in both test and training set. Notes: empty labels, overlapping or missing masks,
    /// structures that occur in no case, images that several cases share, images that do not look like CT (these two
    /// only with [`CheckDepth::Voxels`]), grids that nearly match, header warnings. `on_case` receives the number of
    /// cases done and the total.
    pub fn check(&self, depth: CheckDepth, on_case: impl Fn(usize, usize) + Sync) -> CheckReport {
        let Ok(report) = self.check_cancellable(depth, || Ok::<(), Infallible>(()), on_case);
        report
    }

    /// [`Dataset::check`] that stops with the error of `check_cancelled`, called before each case.
    pub fn check_cancellable<E: Send>(
        &self,
        depth: CheckDepth,
        check_cancelled: impl Fn() -> Result<(), E> + Sync,
        on_case: impl Fn(usize, usize) + Sync,
    ) -> Result<CheckReport, E> {
        let done = AtomicUsize::new(0);
        let cases = self.cases.par_iter().map(|case| {
            check_cancelled()?;
            let checked = CaseCheck::run(self, case, depth);
            on_case(done.fetch_add(1, Ordering::Relaxed) + 1, self.cases.len());
            Ok(checked)
        });
        Ok(self.report_of(cases.collect::<Result<_, E>>()?))
    }

    fn report_of(&self, checked: Vec<CaseCheck>) -> CheckReport {
        let mut report = CheckReport {
            dataset: self.name.clone(),
            cases: self.cases.len(),
            problems: Vec::new(),
            notes: Vec::new(),
            contents: Vec::new(),
        };
        let mut present = BTreeSet::new();
        let mut all_read = true;
        for case in checked {
            all_read &= case.problems.is_empty();
            report.contents.extend(case.content());
            report.problems.extend(case.problems);
            report.notes.extend(case.notes);
            present.extend(case.present);
        }
        self.check_ids(&mut report);
        self.check_unpaired(&mut report);
        self.check_duplicate_images(&mut report);
        // If a file could not be read, the structure may be in that file.
        if all_read {
            for structure in self
                .structures
                .iter()
                .filter(|s| !present.contains(&s.value))
            {
                report.notes.push(CaseNote {
                    case: None,
                    note: format!(
                        "structure '{}' (value {}) occurs in no case",
                        structure.name, structure.value
                    ),
                    is_warning: true,
                });
            }
        }
        report
    }

    /// Duplicate ids, and patients in both training and test set.
    fn check_ids(&self, report: &mut CheckReport) {
        let mut first_with: BTreeMap<&str, &Case> = BTreeMap::new();
        let mut test_patients: BTreeMap<&str, &str> = BTreeMap::new();
        for case in &self.cases {
            if let Some(first) = first_with.get(case.id.as_str()) {
                report.problems.push(CaseProblem {
                    case: case.id.clone(),
                    file: case.image.clone(),
                    problem: format!(
                        "duplicate case id, also used by {}; rename or remove one of the two",
                        first.image.display()
                    ),
                });
            }
            first_with.entry(&case.id).or_insert(case);
            if self.is_test(&case.id) {
                test_patients.entry(&case.patient).or_insert(&case.id);
            }
        }
        for case in self.cases.iter().filter(|case| !self.is_test(&case.id)) {
            if let Some(test_case) = test_patients.get(case.patient.as_str()) {
                report.problems.push(CaseProblem {
                    case: case.id.clone(),
                    file: case.image.clone(),
                    problem: format!(
                        "patient '{}' is in training here and in the test set as case '{test_case}'; \
                         put all cases of a patient on one side",
                        case.patient
                    ),
                });
            }
        }
    }

    /// Images that several cases share: a problem between test set and training, otherwise a note.
    fn check_duplicate_images(&self, report: &mut CheckReport) {
        let mut problems = Vec::new();
        for group in duplicate_images(&report.contents) {
            let (test, training): (Vec<&str>, Vec<&str>) =
                group.iter().copied().partition(|id| self.is_test(id));
            if let (Some(test), Some(training)) = (test.first(), training.first()) {
                let file = self.cases.iter().find(|case| case.id == **training);
                problems.push(CaseProblem {
                    case: (*training).to_owned(),
                    file: file.map(|case| case.image.clone()).unwrap_or_default(),
                    problem: format!(
                        "the image is in training here and in the test set as case '{test}'; remove one of the two"
                    ),
                });
                continue;
            }
            report.notes.push(CaseNote {
                case: None,
                note: format!(
                    "cases {} have the same image; treated as one patient",
                    listed(&group)
                ),
                is_warning: true,
            });
        }
        report.problems.extend(problems);
    }

    fn check_unpaired(&self, report: &mut CheckReport) {
        for path in &self.unpaired_labels {
            report.problems.push(CaseProblem {
                case: case_name(path).unwrap_or_default(),
                file: path.clone(),
                problem: "labels without an image; add the image or remove the file".into(),
            });
        }
    }
}
