//! Whether given folds can be trained on.

use std::collections::{BTreeMap, BTreeSet};

use super::{GivenSplits, NamedSplit};
use crate::dataset::Dataset;
use ctseg_base::Result;
use ctseg_base::text::suggest::nearest;

/// So many ids are listed in a line.
const SHOWN: usize = 6;

impl GivenSplits {
    /// What cannot be trained on, and what is worth knowing of the rest.
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
            self.check_sides(number, fold, &known)?;
        }
        Ok(self.notes(&known))
    }

    /// Every id is that of a training case, once on each side, and no side is empty.
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
        for (side, ids) in [("train", &fold.train), ("val", &fold.validation)] {
            if ids.is_empty() {
                return Err(self.error(&format!("fold {number} has no cases in {side}")));
            }
            let mut seen = BTreeSet::new();
            if let Some(id) = ids.iter().find(|id| !seen.insert(*id)) {
                return Err(self.error(&format!("fold {number} names case '{id}' twice in {side}")));
            }
        }
        Ok(())
    }

    /// No case and no patient is on both sides.
    fn check_sides(
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
                "fold {number} has patient '{}' on both sides, with case '{other}' in train and case '{id}' in val",
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
        // With a single fold it is the rule.
        let several = self.folds.len() > 1;
        let never = all().filter(|id| several && times(id) == 0 && trained.contains(id));
        let often = all().filter(|id| times(id) > 1);
        let file = self.file.display();
        let mut notes = Vec::new();
        let mut note = |ids: Vec<&str>, words: String| {
            if !ids.is_empty() {
                let count = match ids.len() {
                    1 => "1 training case".to_owned(),
                    many => format!("{many} training cases"),
                };
                notes.push(format!("{count} {words}: {}", listed(&ids)));
            }
        };
        note(
            in_none.collect(),
            format!("in no fold of {file}, neither trained on nor validated"),
        );
        note(
            never.collect(),
            format!("in no validation set of {file}, so no network can judge them out of fold"),
        );
        note(
            often.collect(),
            format!("in several validation sets of {file}, of which the first counts out of fold"),
        );
        notes
    }
}

/// The first few, and how many more there are.
fn listed(ids: &[&str]) -> String {
    let shown = ids[..ids.len().min(SHOWN)].join(", ");
    match ids.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
