//! Cross-validation folds, grouped by patient.

use std::collections::BTreeMap;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Dataset, NamedSplit};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};

/// With a single fold, one patient in this many is held out for validation (20 %).
const HOLD_OUT_ONE_IN: usize = 5;

/// Indices of training and validation cases, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub train: Vec<usize>,
    pub validation: Vec<usize>,
}

impl Dataset {
    /// Training and validation cases (indices into `cases`) of one of `k` folds: from a file
    /// ([`Dataset::splits`]), or otherwise as assigned by [`folds`].
    pub fn split(&self, k: usize, fold: usize, seed: u64) -> Result<Split> {
        if let Some(splits) = &self.splits {
            return self.predefined_split(splits, fold);
        }
        let candidates = self.training_cases();
        let all = self.assigned_folds(k, seed, &|_| false)?;
        let chosen = all.get(fold).ok_or_else(|| {
            Error::invalid(format!(
                "dataset '{}' has no fold {fold}; with k = {k}, folds are numbered from 0 to {}",
                self.name,
                all.len().saturating_sub(1)
            ))
        })?;
        let mut validation: Vec<_> = chosen.iter().map(|index| candidates[*index]).collect();
        validation.sort_unstable();
        let train = candidates
            .into_iter()
            .filter(|index| validation.binary_search(index).is_err())
            .collect();
        Ok(Split { train, validation })
    }

    /// All `k` folds, stratified: patients with a case whose id is `wanted` are spread evenly over them.
    pub fn stratified_splits(
        &self,
        k: usize,
        seed: u64,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<NamedSplit>> {
        let candidates = self.training_cases();
        let ids = |cases: &[usize]| -> Vec<String> {
            let cases = cases.iter().map(|case| &self.cases[candidates[*case]]);
            cases.map(|case| case.id.clone()).collect()
        };
        let all = self.assigned_folds(k, seed, wanted)?.into_iter();
        let named = all.map(|mut validation| {
            validation.sort_unstable();
            let train = (0..candidates.len()).filter(|case| !validation.contains(case));
            NamedSplit {
                train: ids(&train.collect::<Vec<_>>()),
                validation: ids(&validation),
            }
        });
        Ok(named.collect())
    }

    /// Validation sets as positions among the training cases.
    fn assigned_folds(
        &self,
        k: usize,
        seed: u64,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Vec<usize>>> {
        let cases = self.training_cases().into_iter();
        let cases: Vec<(String, String)> = cases
            .map(|index| &self.cases[index])
            .map(|case| (case.id.clone(), case.patient.clone()))
            .collect();
        stratified_folds(&cases, k, seed, &|case| wanted(&cases[case].0))
            .map_err(|error| Error::invalid(format!("dataset '{}': {error}", self.name)))
    }
}

/// The validation sets of `k` folds, as indices into `cases` (case id, patient), sorted by case id.
///
/// Patients are shuffled by `seed` (ChaCha8) and assigned so that the folds have nearly equal numbers
/// of cases; all cases of a patient are in one fold, and the order of `cases` does
/// not matter. With `k = 1` there is one set: a hold-out of 20 % of the patients, at least one.
/// Fails if `k` is 0 or there are fewer patients than folds (for `k = 1`, fewer than 2).
pub fn folds(cases: &[(String, String)], k: usize, seed: u64) -> Result<Vec<Vec<usize>>> {
    stratified_folds(cases, k, seed, &|_| false)
}

/// [`folds`] that assigns patients with a `wanted` case first, so that they are spread evenly.
fn stratified_folds(
    cases: &[(String, String)],
    k: usize,
    seed: u64,
    wanted: &dyn Fn(usize) -> bool,
) -> Result<Vec<Vec<usize>>> {
    let patients = shuffled_patients(cases, seed);
    let needed = k.max(2);
    if k == 0 {
        return Err(Error::invalid(
            "0 folds requested; expected k of at least 1",
        ));
    }
    if patients.len() < needed {
        return Err(Error::invalid(format!(
            "{} available for training, too few for {}; expected at least {needed}: {}",
            counted(patients.len(), "patient"),
            counted(k, "fold"),
            match patients.len() {
                0 | 1 => "add patients".to_owned(),
                count => format!("lower folds (folds = {count} at most) or add patients"),
            }
        )));
    }
    let mut sets = if k == 1 {
        let held_out = (patients.len() + HOLD_OUT_ONE_IN / 2) / HOLD_OUT_ONE_IN;
        vec![
            patients
                .into_iter()
                .take(held_out.max(1))
                .flatten()
                .collect(),
        ]
    } else {
        assign_to_folds(patients, k, wanted)
    };
    for set in &mut sets {
        set.sort_by(|a, b| (&cases[*a], a).cmp(&(&cases[*b], b)));
    }
    Ok(sets)
}

/// The cases of each patient; the order of patients depends only on their names and `seed`.
fn shuffled_patients(cases: &[(String, String)], seed: u64) -> Vec<Vec<usize>> {
    let mut patients: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, (_, patient)) in cases.iter().enumerate() {
        patients.entry(patient).or_default().push(index);
    }
    // Sort by a random key per patient, drawn in name order: unlike a library's shuffle this does not
    // change between versions.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut keyed: Vec<(u64, Vec<usize>)> = patients
        .into_values()
        .map(|cases| (rng.next_u64(), cases))
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, cases)| cases).collect()
}

/// Assigns patients with wanted cases first, then those with the most cases, each to the fold with the fewest cases.
fn assign_to_folds(
    mut patients: Vec<Vec<usize>>,
    k: usize,
    wanted: &dyn Fn(usize) -> bool,
) -> Vec<Vec<usize>> {
    // Stable sort: patients with equally many cases keep the shuffled order.
    patients.sort_by_key(|cases| {
        let has_wanted = cases.iter().any(|case| wanted(*case));
        (!has_wanted, std::cmp::Reverse(cases.len()))
    });
    let mut sets = vec![Vec::new(); k];
    for cases in patients {
        if let Some(smallest) = sets.iter_mut().min_by_key(|set| set.len()) {
            smallest.extend(cases);
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Cases = Vec<(String, String)>;

    fn ids(cases: &[(String, String)], sets: &[Vec<usize>]) -> Vec<Vec<String>> {
        sets.iter()
            .map(|set| set.iter().map(|i| cases[*i].0.clone()).collect())
            .collect()
    }

    fn one_each(patients: usize) -> Cases {
        (0..patients)
            .map(|p| (format!("c{p:03}"), format!("p{p:03}")))
            .collect()
    }

    /// Cases of up to 12 patients with 1 to 4 cases each, and their shuffled order.
    fn cohort() -> impl Strategy<Value = (Cases, Cases)> {
        proptest::collection::vec(1usize..5, 2..13).prop_flat_map(|sizes| {
            let mut cases = Vec::new();
            for (patient, size) in sizes.into_iter().enumerate() {
                for _ in 0..size {
                    cases.push((format!("case{}", cases.len()), format!("patient{patient}")));
                }
            }
            (Just(cases.clone()), Just(cases).prop_shuffle())
        })
    }

    proptest! {
        #[test]
        fn folds_partition_the_cases_and_keep_patients_whole(
            (cases, shuffled) in cohort(), k in 2usize..6, seed: u64,
        ) {
            let patients: std::collections::BTreeSet<_> = cases.iter().map(|c| &c.1).collect();
            let Ok(sets) = folds(&cases, k, seed) else {
                prop_assert!(patients.len() < k);
                return Ok(());
            };
            prop_assert!(patients.len() >= k && sets.len() == k);
            let mut all: Vec<usize> = sets.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..cases.len()).collect::<Vec<_>>());
            for patient in patients {
                let holding = sets.iter().filter(|s| s.iter().any(|i| cases[*i].1 == *patient));
                prop_assert_eq!(holding.count(), 1);
            }
            // Largest first into the smallest fold: no fold is ahead by more than one patient.
            let sizes: Vec<usize> = sets.iter().map(Vec::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 4);
            prop_assert!(sizes.iter().all(|size| *size > 0));
            let again = folds(&shuffled, k, seed).unwrap();
            prop_assert_eq!(ids(&cases, &sets), ids(&shuffled, &again));
        }

        #[test]
        fn the_hold_out_is_a_fifth_of_the_patients(patients in 2usize..60, seed: u64) {
            let sets = folds(&one_each(patients), 1, seed).unwrap();
            let fifth = (patients as f64 / 5.0).round().max(1.0);
            prop_assert_eq!((sets.len(), sets[0].len() as f64), (1, fifth));
        }
    }

    #[test]
    fn too_few_patients_suggest_fewer_folds() {
        let error = |patients: usize| folds(&one_each(patients), 5, 1).unwrap_err().to_string();
        assert!(
            error(3).contains("lower folds (folds = 3 at most)"),
            "{}",
            error(3)
        );
        assert!(
            error(1).ends_with("expected at least 5: add patients"),
            "{}",
            error(1)
        );
    }

    #[test]
    fn single_case_patients_are_assigned_evenly() {
        let mut sizes: Vec<_> = folds(&one_each(32), 5, 3)
            .unwrap()
            .iter()
            .map(Vec::len)
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [6, 6, 6, 7, 7]);
    }

    #[test]
    fn seeds_give_different_folds_and_patients_are_uniform() {
        let cases = one_each(10);
        let seeds = 2000;
        let mut first_fold = [0usize; 10];
        let mut different = std::collections::HashSet::new();
        for seed in 0..seeds {
            let sets = folds(&cases, 5, seed).unwrap();
            for index in &sets[0] {
                first_fold[*index] += 1;
            }
            different.insert(sets);
        }
        assert!(
            different.len() > 1900,
            "{} of {seeds} seeds differ",
            different.len()
        );
        // Each is in the first fold with probability 1/5: 400 expected, standard deviation 18.
        assert!(
            first_fold.iter().all(|times| (310..490).contains(times)),
            "{first_fold:?}"
        );
    }

    #[test]
    fn impossible_folds_are_refused() {
        let text = |n, k| folds(&one_each(n), k, 0).unwrap_err().to_string();
        assert!(text(4, 0).contains("at least 1"));
        assert!(text(4, 5).contains("4 patients") && text(4, 5).contains("at least 5"));
        assert!(text(1, 1).contains("at least 2"));
        let one_patient: Vec<_> = (0..9).map(|c| (format!("c{c}"), "p".to_owned())).collect();
        assert!(folds(&one_patient, 2, 0).is_err());
    }
}
