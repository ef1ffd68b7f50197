//! The content of a dataset, and how it has changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CaseContent;
use crate::dataset::Dataset;
use ctseg_base::text::words::{counted, listed};

/// What training uses of a dataset: structures and training cases; no paths, no times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetContent {
    /// The dataset's name.
    pub dataset: String,
    /// Names by label value.
    pub structures: BTreeMap<u16, String>,
    /// The ignore label.
    pub ignore: Option<u16>,
    /// Training cases, sorted by id.
    pub cases: Vec<CaseContent>,
}

impl DatasetContent {
    /// The training cases of `dataset` out of `cases`, as found by a check that read every voxel.
    pub fn new(dataset: &Dataset, cases: Vec<CaseContent>) -> Self {
        let trained: BTreeSet<&str> = dataset
            .training_cases()
            .into_iter()
            .map(|index| dataset.cases[index].id.as_str())
            .collect();
        let structures = dataset.structures.iter();
        Self {
            dataset: dataset.name.clone(),
            structures: structures.map(|s| (s.value, s.name.clone())).collect(),
            ignore: dataset.ignore,
            cases: cases
                .into_iter()
                .filter(|case| trained.contains(case.case.as_str()))
                .collect(),
        }
    }

    /// SHA-256, in hex, over structures and cases, without the dataset's name.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        for (value, name) in &self.structures {
            hasher.update(format!("{value}\0{name}\0"));
        }
        hasher.update(format!("{:?}\0", self.ignore));
        for case in &self.cases {
            let labels = case.labels_sha256.as_deref().unwrap_or_default();
            hasher.update(format!("{}\0{}\0{labels}\0", case.case, case.image_sha256));
        }
        format!("{:x}", hasher.finalize())
    }

    /// SHA-256 of each case's image, by its id.
    pub fn images(&self) -> BTreeMap<String, String> {
        let images = self.cases.iter();
        images
            .map(|case| (case.case.clone(), case.image_sha256.clone()))
            .collect()
    }

    /// Differences from `earlier`, in words; empty if training can resume.
    pub fn changes_since(&self, earlier: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if self.structures != earlier.structures {
            changes.push(format!(
                "structures were {} and are now {}",
                structures_text(&earlier.structures),
                structures_text(&self.structures)
            ));
        }
        if self.ignore != earlier.ignore {
            let text = |ignore: Option<u16>| ignore.map_or("none".to_owned(), |v| v.to_string());
            changes.push(format!(
                "the ignore label was {} and is now {}",
                text(earlier.ignore),
                text(self.ignore)
            ));
        }
        let by_id = |content: &Self| -> BTreeMap<String, CaseContent> {
            let cases = content.cases.iter();
            cases
                .map(|case| (case.case.clone(), case.clone()))
                .collect()
        };
        let (mut was, mut is) = (by_id(earlier), by_id(self));
        let kept: Vec<(CaseContent, CaseContent)> = earlier
            .cases
            .iter()
            .filter_map(|case| {
                let now = is.remove(&case.case)?;
                Some((was.remove(&case.case)?, now))
            })
            .collect();
        changes.extend(change_line("renamed", renamed(&mut was, &mut is)));
        changes.extend(change_line("added", is.into_keys().collect()));
        changes.extend(change_line("removed", was.into_keys().collect()));
        let changed = |is_other: fn(&CaseContent, &CaseContent) -> bool| {
            let changed = kept.iter().filter(|(was, is)| is_other(was, is));
            changed.map(|(was, _)| was.case.clone()).collect()
        };
        changes.extend(change_line(
            "with another image",
            changed(|was, is| was.image_sha256 != is.image_sha256),
        ));
        changes.extend(change_line(
            "with other labels",
            changed(|was, is| was.labels_sha256 != is.labels_sha256),
        ));
        changes
    }
}

/// Removes from both maps the cases that have the same content under another name.
fn renamed(
    was: &mut BTreeMap<String, CaseContent>,
    is: &mut BTreeMap<String, CaseContent>,
) -> Vec<String> {
    let mut renamed = Vec::new();
    was.retain(|id, case| {
        let same = |other: &CaseContent| {
            other.image_sha256 == case.image_sha256 && other.labels_sha256 == case.labels_sha256
        };
        let found = is.iter().find(|(_, other)| same(other));
        let Some(new) = found.map(|(new, _)| new.clone()) else {
            return true;
        };
        is.remove(&new);
        renamed.push(format!("{id} to {new}"));
        false
    });
    renamed
}

/// Such as `2 cases added (c6, c7)`.
fn change_line(what: &str, cases: Vec<String>) -> Option<String> {
    let named = format!(
        "{} {what} ({})",
        counted(cases.len(), "case"),
        listed(&cases)
    );
    (!cases.is_empty()).then_some(named)
}

fn structures_text(structures: &BTreeMap<u16, String>) -> String {
    let named = structures.iter();
    let named: Vec<String> = named
        .map(|(value, name)| format!("{value} {name}"))
        .collect();
    listed(&named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(id: &str, image: &str, labels: &str) -> CaseContent {
        CaseContent {
            case: id.to_owned(),
            shape: [4, 3, 2],
            image_sha256: image.to_owned(),
            labels_sha256: Some(labels.to_owned()),
            structures: BTreeSet::from([1]),
        }
    }

    fn content(cases: &[CaseContent]) -> DatasetContent {
        DatasetContent {
            dataset: "d".to_owned(),
            structures: BTreeMap::from([(1, "liver".to_owned())]),
            ignore: None,
            cases: cases.to_vec(),
        }
    }

    #[test]
    fn changes_are_named() {
        let earlier = content(&[
            case("c0", "i0", "l0"),
            case("c1", "i1", "l1"),
            case("c2", "i2", "l2"),
            case("c3", "i3", "l3"),
        ]);
        // Renaming the dataset is not a change.
        let same = DatasetContent {
            dataset: "elsewhere".to_owned(),
            ..earlier.clone()
        };
        assert!(same.changes_since(&earlier).is_empty());
        assert_eq!(same.sha256(), earlier.sha256());
        let mut now = content(&[
            case("c0", "i0", "l0-corrected"),
            case("c1", "i1-other", "l1"),
            case("c2-again", "i2", "l2"),
            case("c4", "i4", "l4"),
        ]);
        now.structures.insert(2, "spleen".to_owned());
        now.ignore = Some(255);
        assert_eq!(
            now.changes_since(&earlier),
            [
                "structures were 1 liver and are now 1 liver, 2 spleen",
                "the ignore label was none and is now 255",
                "1 case renamed (c2 to c2-again)",
                "1 case added (c4)",
                "1 case removed (c3)",
                "1 case with another image (c1)",
                "1 case with other labels (c0)",
            ]
        );
        assert_ne!(now.sha256(), earlier.sha256());
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<DatasetContent>(&text).unwrap(), now);
    }
}
