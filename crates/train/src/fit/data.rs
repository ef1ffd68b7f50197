//! Content and folds of a run: fixed when it starts, and checked when it is resumed.

use std::collections::BTreeSet;
use std::path::Path;

use ctseg_base::progress::Observer;
use ctseg_base::text::words::listed;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::content::{CaseContent, DatasetContent, duplicate_images};
use ctseg_core::dataset::{Dataset, NamedSplit, PredefinedSplits};
use ctseg_core::recipe::{Recipe, Target};
use ctseg_core::run::data::RunData;

/// A dataset that was checked.
#[derive(Clone, Copy)]
pub struct CheckedData<'a> {
    pub dataset: &'a Dataset,
    pub content: &'a DatasetContent,
    /// As given by the user, for error messages.
    pub path: &'a Path,
}

/// Content and folds of a training of `folds` folds, or those of the `existing` run or sweep folder.
///
/// # Errors
/// The dataset has changed since `existing` was started; too few patients.
pub fn run_data(
    data: &CheckedData,
    folds: usize,
    seed: u64,
    existing: Option<&Path>,
    observer: &dyn Observer,
) -> Result<RunData> {
    let CheckedData {
        dataset,
        content,
        path,
    } = *data;
    let new = |dataset: &Dataset| -> Result<RunData> {
        Ok(RunData {
            splits: PredefinedSplits {
                file: path.to_path_buf(),
                folds: dataset.named_splits(folds, seed)?,
            },
            content: content.clone(),
        })
    };
    let Some(existing) = existing else {
        let grouped = dataset.with_duplicates_grouped(content);
        let mut data = new(&grouped)?;
        if let Some(stratified) = stratified_folds(&grouped, &data, folds, seed)? {
            observer.info(
                "folds: patients with structures are spread over the folds, because one fold would have had only empty label maps to train on",
            );
            data.splits.folds = stratified;
        }
        warn_of_leaked_images(&data, observer);
        return Ok(data);
    };
    if let Some(stored) = RunData::read(existing)? {
        stored.check_unchanged(content, path, existing)?;
        return Ok(stored);
    }
    observer.warn(&format!(
        "{} was started by an earlier version that stored no data fingerprint; changes of the dataset cannot be detected",
        existing.display()
    ));
    new(dataset)
}

/// Stratified folds, if a fold of `data` has no structure to train on and all stratified folds do.
fn stratified_folds(
    dataset: &Dataset,
    data: &RunData,
    folds: usize,
    seed: u64,
) -> Result<Option<Vec<NamedSplit>>> {
    let cases = &data.content.cases;
    let can_learn = |splits: &[NamedSplit]| {
        let mut folds = splits.iter();
        folds.all(|split| !present(cases, Some(&split.train)).is_empty())
    };
    if dataset.splits.is_some() || folds < 2 || can_learn(&data.splits.folds) {
        return Ok(None);
    }
    let with_structures: BTreeSet<&str> = cases
        .iter()
        .filter(|case| !case.structures.is_empty())
        .map(|case| case.case.as_str())
        .collect();
    let stratified = dataset.stratified_splits(folds, seed, &|id| with_structures.contains(id))?;
    Ok(Some(stratified).filter(|splits| can_learn(splits)))
}

/// Warns of given folds that have the same image in training and validation.
fn warn_of_leaked_images(data: &RunData, observer: &dyn Observer) {
    let groups = duplicate_images(&data.content.cases);
    for (fold, split) in data.splits.folds.iter().enumerate() {
        let has =
            |cases: &[String], ids: &[&str]| cases.iter().any(|id| ids.contains(&id.as_str()));
        let leaked = groups
            .iter()
            .filter(|ids| has(&split.train, ids) && has(&split.validation, ids));
        for ids in leaked {
            observer.warn(&format!(
                "fold {fold}: cases {} are the same image, in training and validation: this fold's scores will be too high",
                listed(ids)
            ));
        }
    }
}

/// Warns of structures that the trained folds cannot learn or measure because labels are missing.
///
/// # Errors
/// The training cases of a fold hold no structure.
pub(super) fn check_labels(
    recipe: &Recipe,
    dataset: &Dataset,
    data: &RunData,
    observer: &dyn Observer,
) -> Result<()> {
    let cases = &data.content.cases;
    if present(cases, None).is_empty() {
        return Err(Error::invalid(format!(
            "dataset '{}': no case holds a structure (all {} label maps are empty); label some cases, or check the label values",
            dataset.name,
            cases.len()
        )));
    }
    let fold_of = |fold: usize| data.splits.folds.get(fold).map(|split| (fold, split));
    for (fold, split) in recipe.trained_folds().into_iter().filter_map(fold_of) {
        let trained = present(cases, Some(&split.train));
        let held_out = present(cases, Some(&split.validation));
        if trained.is_empty() {
            return Err(Error::invalid(format!(
                "dataset '{}': no training case of fold {fold} holds a structure (all {} label maps are empty); label more cases, or train only another fold with --fold",
                dataset.name,
                split.train.len()
            )));
        }
        let unlearned: Vec<u16> = held_out.difference(&trained).copied().collect();
        if !unlearned.is_empty() {
            observer.warn(&format!(
                "fold {fold}: only held-out cases hold {}: the network cannot learn it",
                named(dataset, &unlearned)
            ));
        }
        let unmeasured: Vec<u16> = trained.difference(&held_out).copied().collect();
        if held_out.is_empty() {
            observer.warn(&format!(
                "fold {fold}: no held-out case holds a structure: validation scores are undefined, and the last epoch counts as the best"
            ));
        } else if !unmeasured.is_empty() && recipe.structures == Target::Each {
            observer.warn(&format!(
                "fold {fold}: no held-out case holds {}: its validation scores are undefined",
                named(dataset, &unmeasured)
            ));
        }
    }
    Ok(())
}

/// Values of the structures in all cases, or in the cases with these ids.
fn present(cases: &[CaseContent], ids: Option<&[String]>) -> BTreeSet<u16> {
    let ids: Option<BTreeSet<&String>> = ids.map(|ids| ids.iter().collect());
    let wanted = |case: &&CaseContent| ids.as_ref().is_none_or(|ids| ids.contains(&case.case));
    let structures = cases
        .iter()
        .filter(wanted)
        .flat_map(|case| &case.structures);
    structures.copied().collect()
}

fn named(dataset: &Dataset, values: &[u16]) -> String {
    let name = |value: &u16| {
        let found = dataset.structures.iter().find(|s| s.value == *value);
        found.map_or_else(|| value.to_string(), |structure| structure.name.clone())
    };
    listed(&values.iter().map(name).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_core::dataset::{Layout, Structure};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Warnings(Mutex<Vec<String>>);

    impl Observer for Warnings {
        fn info(&self, _: &str) {}

        fn warn(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }

        fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn ctseg_base::progress::Task> {
            Box::new(ctseg_base::progress::Silent)
        }
    }

    /// The result and warnings for cases (c0 and so on) with these structures; fold 0 holds out the first half.
    fn checked(cases: &[&[u16]]) -> (Result<()>, Vec<String>) {
        let structure = |(value, name): (u16, &str)| Structure {
            value,
            name: name.to_owned(),
        };
        let dataset = Dataset {
            name: "d".to_owned(),
            root: "d".into(),
            layout: Layout::Plain,
            licence: None,
            description: None,
            structures: [(1, "liver"), (2, "spleen")].map(structure).to_vec(),
            ignore: None,
            cases: Vec::new(),
            test: Vec::new(),
            unpaired_labels: Vec::new(),
            splits: None,
            copies: Default::default(),
            channel: None,
            reading: Default::default(),
        };
        let ids: Vec<String> = (0..cases.len()).map(|n| format!("c{n}")).collect();
        let content = |(id, structures): (&String, &&[u16])| CaseContent {
            case: id.clone(),
            shape: [1; 3],
            image_sha256: id.clone(),
            labels_sha256: None,
            structures: structures.iter().copied().collect(),
        };
        let contents = ids.iter().zip(cases).map(content).collect();
        let mut content = DatasetContent::new(&dataset, Vec::new());
        content.cases = contents;
        let (first, second) = ids.split_at(ids.len() / 2);
        let split = |train: &[String], validation: &[String]| NamedSplit {
            train: train.to_vec(),
            validation: validation.to_vec(),
        };
        let data = RunData {
            content,
            splits: PredefinedSplits {
                file: "d".into(),
                folds: vec![split(second, first), split(first, second)],
            },
        };
        let set = ["folds=2".to_owned(), "train_folds=[0]".to_owned()];
        let recipe = Recipe::named("refine2_5d", &set).unwrap();
        let warnings = Warnings::default();
        let checked = check_labels(&recipe, &dataset, &data, &warnings);
        (checked, warnings.0.into_inner().unwrap())
    }

    #[test]
    fn unlearnable_structures_are_warned_of_and_folds_without_any_are_refused() {
        let (fine, said) = checked(&[&[1, 2], &[], &[1], &[2]]);
        assert!(fine.is_ok() && said.is_empty(), "{said:?}");
        let refused = |cases: &[&[u16]]| checked(cases).0.unwrap_err().to_string();
        assert!(refused(&[&[], &[], &[], &[]]).contains("'d': no case holds a structure"));
        let fold = refused(&[&[1], &[2], &[], &[]]);
        assert!(
            fold.contains("no training case of fold 0 holds a structure"),
            "{fold}"
        );
        // Fold 1, which has nothing to learn from, is not trained.
        let (fine, said) = checked(&[&[], &[], &[1, 2], &[]]);
        assert!(fine.is_ok() && said.len() == 1, "{said:?}");
        assert!(
            said[0].contains("fold 0: no held-out case holds a structure: "),
            "{said:?}"
        );
        let (fine, said) = checked(&[&[2], &[], &[1], &[]]);
        assert!(fine.is_ok() && said.len() == 2, "{said:?}");
        assert!(
            said[0].contains("only held-out cases hold spleen"),
            "{said:?}"
        );
        assert!(said[1].contains("no held-out case holds liver"), "{said:?}");
    }
}
