//! What a run is trained on: settled before it begins, and compared when it goes on.

use std::collections::BTreeSet;
use std::path::Path;

use ctseg_base::progress::Observer;
use ctseg_base::text::words::listed;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::content::{CaseContent, DatasetContent, same_images};
use ctseg_core::dataset::{Dataset, GivenSplits, NamedSplit};
use ctseg_core::recipe::{Recipe, Target};
use ctseg_core::run::data::RunData;

/// A dataset that was checked.
#[derive(Clone, Copy)]
pub struct CheckedData<'a> {
    pub dataset: &'a Dataset,
    pub content: &'a DatasetContent,
    /// As the user named it, for errors.
    pub place: &'a Path,
}

/// Content and folds of a training of `folds` folds; those of the run or sweep in the folder `begun`, if there is one.
///
/// # Errors
/// The dataset is not as it was when `begun` began; too few patients.
pub fn run_data(
    data: &CheckedData,
    (folds, seed): (usize, u64),
    begun: Option<&Path>,
    observer: &dyn Observer,
) -> Result<RunData> {
    let CheckedData {
        dataset,
        content,
        place,
    } = *data;
    let new = |dataset: &Dataset| -> Result<RunData> {
        Ok(RunData {
            splits: GivenSplits {
                file: place.to_path_buf(),
                folds: dataset.named_splits(folds, seed)?,
            },
            content: content.clone(),
        })
    };
    let Some(begun) = begun else {
        let together = dataset.with_same_images_together(content);
        let mut data = new(&together)?;
        if let Some(spread) = spread(&together, &data, (folds, seed))? {
            observer.say(
                "folds: patients with structures are spread, because a fold would have trained on empty label maps alone",
            );
            data.splits.folds = spread;
        }
        warn_of_parted_images(&data, observer);
        return Ok(data);
    };
    if let Some(stored) = RunData::read(begun)? {
        stored.refuse_if_changed(content, place, begun)?;
        return Ok(stored);
    }
    observer.warn(&format!(
        "{} was begun by an earlier version, which kept no fingerprint of the data: whether they have changed since is not known",
        begun.display()
    ));
    new(dataset)
}

/// Other folds than `data` has, where one of those has no structure to train on and none of these.
fn spread(
    dataset: &Dataset,
    data: &RunData,
    (folds, seed): (usize, u64),
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
    let spread = dataset.spread_splits(folds, seed, &|id| with_structures.contains(id))?;
    Ok(Some(spread).filter(|spread| can_learn(spread)))
}

/// Says which folds, given ones, have an image on both sides.
fn warn_of_parted_images(data: &RunData, observer: &dyn Observer) {
    let groups = same_images(&data.content.cases);
    for (fold, split) in data.splits.folds.iter().enumerate() {
        let on = |side: &[String], ids: &[&str]| side.iter().any(|id| ids.contains(&id.as_str()));
        let parted = groups
            .iter()
            .filter(|ids| on(&split.train, ids) && on(&split.validation, ids));
        for ids in parted {
            observer.warn(&format!(
                "fold {fold}: cases {} are one image, in training and held out: the fold's scores are too high",
                listed(ids)
            ));
        }
    }
}

/// Says what the trained folds of `data` cannot learn or measure for want of labels.
///
/// # Errors
/// A fold whose training cases hold no structure at all.
pub(super) fn check_labels(
    recipe: &Recipe,
    dataset: &Dataset,
    data: &RunData,
    observer: &dyn Observer,
) -> Result<()> {
    let cases = &data.content.cases;
    if present(cases, None).is_empty() {
        return Err(Error::invalid(format!(
            "dataset '{}': no case holds a structure, all label maps ({}) are empty; nothing can be learned from them: label cases, or check the label values",
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
                "dataset '{}': no training case of fold {fold} holds a structure, its {} label maps are empty; label more cases, or train another fold alone with --fold",
                dataset.name,
                split.train.len()
            )));
        }
        let unlearned: Vec<u16> = held_out.difference(&trained).copied().collect();
        if !unlearned.is_empty() {
            observer.warn(&format!(
                "fold {fold}: only held-out cases hold {}: its network cannot learn that",
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
                "fold {fold}: no held-out case holds {}: validation scores of that are undefined",
                named(dataset, &unmeasured)
            ));
        }
    }
    Ok(())
}

/// Values of the structures that cases hold, of all cases or of those with these ids.
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
    struct Warned(Mutex<Vec<String>>);

    impl Observer for Warned {
        fn say(&self, _: &str) {}

        fn warn(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }

        fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn ctseg_base::progress::Task> {
            Box::new(ctseg_base::progress::Silent)
        }
    }

    /// What is said of cases that hold these structures, c0 and so on; fold 0 holds out the first half of them.
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
            splits: GivenSplits {
                file: "d".into(),
                folds: vec![split(second, first), split(first, second)],
            },
        };
        let set = ["folds=2".to_owned(), "train_folds=[0]".to_owned()];
        let recipe = Recipe::named("refine2_5d", &set).unwrap();
        let warned = Warned::default();
        let checked = check_labels(&recipe, &dataset, &data, &warned);
        (checked, warned.0.into_inner().unwrap())
    }

    #[test]
    fn folds_are_told_what_they_cannot_learn_and_refused_where_that_is_all() {
        let (fine, said) = checked(&[&[1, 2], &[], &[1], &[2]]);
        assert!(fine.is_ok() && said.is_empty(), "{said:?}");
        let refused = |cases: &[&[u16]]| checked(cases).0.unwrap_err().to_string();
        assert!(refused(&[&[], &[], &[], &[]]).contains("'d': no case holds a structure"));
        let fold = refused(&[&[1], &[2], &[], &[]]);
        assert!(
            fold.contains("no training case of fold 0 holds a structure"),
            "{fold}"
        );
        // Fold 1, which could learn nothing, is not trained.
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
