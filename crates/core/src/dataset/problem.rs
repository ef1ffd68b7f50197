//! Problems and notes from the check of a dataset.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use ctseg_base::text::words::listed;

/// How much of the images [`Dataset::check`](crate::dataset::Dataset::check) reads; label maps are always read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckDepth {
    /// Only the images' headers.
    Headers,
    /// Every voxel: also finds truncated images, and takes about as long as reading one epoch.
    Voxels,
}

/// A problem that must be fixed before the dataset can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseProblem {
    pub case: String,
    pub file: PathBuf,
    pub problem: String,
}

/// A note or warning; `case` is `None` if it concerns the whole dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseNote {
    pub case: Option<String>,
    pub note: String,
    /// Whether it is a warning.
    pub is_warning: bool,
}

/// One line per distinct note with its cases, in the order of the first case.
pub fn grouped(notes: &[CaseNote]) -> Vec<String> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for CaseNote { case, note, .. } in notes {
        let place = *places.entry(note).or_insert_with(|| {
            groups.push((note, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.extend(case.as_deref());
    }
    let line = |(note, cases): (&str, Vec<&str>)| match cases.is_empty() {
        true => note.to_owned(),
        false => format!("{}: {note}", listed(&cases)),
    };
    groups.into_iter().map(line).collect()
}

impl fmt::Display for CaseProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A path that names the case needs no prefix.
        let mut parts = self.file.iter();
        if !parts.any(|part| part.to_string_lossy().starts_with(&self.case)) {
            write!(f, "{}: ", self.case)?;
        }
        write!(f, "{}: {}", self.file.display(), self.problem)
    }
}

impl fmt::Display for CaseNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.case {
            Some(case) => write!(f, "{case}: {}", self.note),
            None => f.write_str(&self.note),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_notes_are_grouped() {
        let note = |case: Option<&str>, note: &str| CaseNote {
            case: case.map(str::to_owned),
            note: note.to_owned(),
            is_warning: true,
        };
        let notes = [
            note(Some("a"), "empty"),
            note(Some("b"), "overlap"),
            note(Some("c"), "empty"),
            note(None, "a structure occurs in no case"),
        ];
        let expected = ["a, c: empty", "b: overlap", "a structure occurs in no case"];
        assert_eq!(grouped(&notes), expected);
    }

    #[test]
    fn a_path_that_names_the_case_gets_no_prefix() {
        let problem = |file: &str| CaseProblem {
            case: "s0001".to_owned(),
            file: PathBuf::from(file),
            problem: "is empty".to_owned(),
        };
        assert_eq!(problem("d/s0001.nii").to_string(), "d/s0001.nii: is empty");
        assert_eq!(problem("d/ct.nii").to_string(), "s0001: d/ct.nii: is empty");
    }
}
