//! Checks predefined folds before training.

use std::collections::{BTreeMap, BTreeSet};

use super::{NamedSplit, PredefinedSplits};
use crate::dataset::Dataset;
use ctseg_base::Result;
use ctseg_base::text::suggest::nearest;

/// Number of ids listed in a message.
const MAX_LISTED: usize = 6;

impl PredefinedSplits {
    /// Fails if the folds cannot be trained on; otherwise returns notes.
    pub(super) fn checked(&self, dataset: &Dataset) -> Result<Vec<String>> {
        if self.folds.is_empty() {
            return Err(self.error("names no folds"));
        }
        let known: BTreeMap<&str, &str> = dataset
            .training_cases()
            .into_iter()
            .map(|index| &dataset.cases[index])
            .map(|case| (case.id.as_str(), case.patient.as_str()))
            .collect();
        for (number, fold) in self.folds.iter().enumerate() {
            self.check_ids(number, fold, &known, dataset)?;
            self.check_overlap(number, fold, &known)?;
        }
        Ok(self.notes(&known))
    }

    /// Every id is a training case, at most once in each set, and no set is empty.
    fn check_ids(
        &self,
        number: usize,
        fold: &NamedSplit,
        known: &BTreeMap<&str, &str>,
        dataset: &Dataset,
    ) -> Result<()> {
        let ids = || fold.train.iter().chain(&fold.validation);
        let unknown: BTreeSet<&str> = ids()
            .map(String::as_str)
            .filter(|id| !known.contains_key(id))
            .collect();
        if let Some(id) = unknown.first() {
            let why = if dataset.is_test(id) {
                "is a test case".to_owned()
            } else if dataset.cases.iter().any(|case| case.id == *id) {
                "has no labels".to_owned()
            } else {
                let near = nearest(id, known.keys().copied(), 1);
                format!("is not in the dataset (nearest: {})", near.join(", "))
            };
            let more = match unknown.len() - 1 {
                0 => String::new(),
                more => format!(" ({more} more such ids)"),
            };
            return Err(self.error(&format!(
                "fold {number} names case '{id}', which {why}{more}"
            )));
        }
        for (set, ids) in [("train", &fold.train), ("val", &fold.validation)] {
            if ids.is_empty() {
                return Err(self.error(&format!("fold {number} has no cases in {set}")));
            }
            let mut seen = BTreeSet::new();
            if let Some(id) = ids.iter().find(|id| !seen.insert(*id)) {
                return Err(self.error(&format!("fold {number} names case '{id}' twice in {set}")));
            }
        }
        Ok(())
    }

    /// No case and no patient is in both sets.
    fn check_overlap(
        &self,
        number: usize,
        fold: &NamedSplit,
        known: &BTreeMap<&str, &str>,
    ) -> Result<()> {
        let patient = |id: &str| known.get(id).copied().unwrap_or_default();
        let trained: BTreeMap<&str, &str> = fold
            .train
            .iter()
            .map(|id| (patient(id), id.as_str()))
            .collect();
        let both = fold.validation.iter();
        let mut both = both.filter_map(|id| Some((id, trained.get(patient(id))?)));
        if let Some((id, other)) = both.next() {
            if fold.train.contains(id) {
                return Err(self.error(&format!(
                    "fold {number} has case '{id}' both in train and in val"
                )));
            }
            return Err(self.error(&format!(
                "patient '{}' is in both sets of fold {number}, with case '{other}' in train and case '{id}' in val",
                patient(id)
            )));
        }
        Ok(())
    }

    fn notes(&self, known: &BTreeMap<&str, &str>) -> Vec<String> {
        let mut held_out: BTreeMap<&str, usize> = BTreeMap::new();
        for id in self.folds.iter().flat_map(|fold| &fold.validation) {
            *held_out.entry(id).or_insert(0) += 1;
        }
        let trained: BTreeSet<&str> = self
            .folds
            .iter()
            .flat_map(|fold| &fold.train)
            .map(String::as_str)
            .collect();
        let times = |id: &str| held_out.get(id).copied().unwrap_or(0);
        let all = || known.keys().copied();
        let in_none = all().filter(|id| times(id) == 0 && !trained.contains(id));
        // With a single fold this is normal.
        let several = self.folds.len() > 1;
        let never = all().filter(|id| several && times(id) == 0 && trained.contains(id));
        let often = all().filter(|id| times(id) > 1);
        let file = self.file.display();
        let mut notes = Vec::new();
        let mut note = |ids: Vec<&str>, text: String| {
            if !ids.is_empty() {
                let count = match ids.len() {
                    1 => "1 training case".to_owned(),
                    many => format!("{many} training cases"),
                };
                notes.push(format!("{count} {text}: {}", listed(&ids)));
            }
        };
        note(
            in_none.collect(),
            format!("in no fold of {file}, used neither for training nor for validation"),
        );
        note(
            never.collect(),
            format!("in no validation set of {file}, so they get no out-of-fold prediction"),
        );
        note(
            often.collect(),
            format!(
                "in several validation sets of {file}; the first one gives the out-of-fold prediction"
            ),
        );
        notes
    }
}

/// The first few ids, and the number of others.
fn listed(ids: &[&str]) -> String {
    let shown = ids[..ids.len().min(MAX_LISTED)].join(", ");
    match ids.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
