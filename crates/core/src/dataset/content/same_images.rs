//! Cases that are one image under several names.

use std::collections::{BTreeMap, BTreeSet};

use super::{CaseContent, DatasetContent};
use crate::dataset::Dataset;

/// Ids of the cases that share their image with others: sorted within each group, and the groups by their first.
pub fn same_images<'a>(cases: impl IntoIterator<Item = &'a CaseContent>) -> Vec<Vec<&'a str>> {
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
    /// The dataset with all cases that have one image taken for one patient's, so that no fold parts them.
    pub fn with_same_images_together(&self, content: &DatasetContent) -> Self {
        let mut dataset = self.clone();
        for group in same_images(&content.cases) {
            let own = |id: &str| group.binary_search(&id).is_ok();
            let patients: BTreeSet<String> = dataset
                .cases
                .iter()
                .filter(|case| own(&case.id))
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
