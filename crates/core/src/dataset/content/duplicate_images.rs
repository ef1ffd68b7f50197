//! Cases that share one image.

use std::collections::{BTreeMap, BTreeSet};

use super::{CaseContent, DatasetContent};
use crate::dataset::Dataset;

/// Groups of case ids that share one image; sorted within each group, and by the first id.
pub fn duplicate_images<'a>(cases: impl IntoIterator<Item = &'a CaseContent>) -> Vec<Vec<&'a str>> {
    let mut by_image: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for case in cases {
        by_image
            .entry(&case.image_sha256)
            .or_default()
            .push(&case.case);
    }
    let mut groups: Vec<Vec<&str>> = by_image.into_values().filter(|ids| ids.len() > 1).collect();
    groups.iter_mut().for_each(|ids| ids.sort_unstable());
    groups.sort_unstable();
    groups
}

impl Dataset {
    /// The dataset with cases of the same image assigned to one patient, so that they stay in one fold.
    pub fn with_duplicates_grouped(&self, content: &DatasetContent) -> Self {
        let mut dataset = self.clone();
        for group in duplicate_images(&content.cases) {
            let in_group = |id: &str| group.binary_search(&id).is_ok();
            let patients: BTreeSet<String> = dataset
                .cases
                .iter()
                .filter(|case| in_group(&case.id))
                .map(|case| case.patient.clone())
                .collect();
            let Some(first) = patients.first().cloned() else {
                continue;
            };
            for case in &mut dataset.cases {
                if patients.contains(&case.patient) {
                    case.patient.clone_from(&first);
                }
            }
        }
        dataset
    }
}
