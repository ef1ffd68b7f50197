//! The cases that the networks of a stage were trained on, identified by name and by image.

use std::collections::BTreeMap;

use super::manifest::{FoldManifest, StageManifest};
use ctseg_base::{Error, Result};

/// The training cases of a stage.
pub struct KnownCases<'a> {
    folds: &'a [FoldManifest],
    /// Names by SHA-256 of the image.
    by_image: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> KnownCases<'a> {
    pub fn new(stage: &'a StageManifest) -> Self {
        let mut by_image: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, image) in &stage.image_sha256 {
            by_image.entry(image).or_default().push(name);
        }
        Self {
            folds: &stage.folds,
            by_image,
        }
    }

    /// Whether cases can be identified by name only: an early version trained the stage and recorded no image hashes.
    pub fn by_name_alone(&self) -> bool {
        self.by_image.is_empty() && self.folds.iter().any(|fold| !fold.trained_on.is_empty())
    }

    /// The names in training of the image with this SHA-256.
    pub fn names_of(&self, image_sha256: &str) -> &[&'a str] {
        self.by_image
            .get(image_sha256)
            .map_or(&[][..], Vec::as_slice)
    }

    /// Whether the network of `fold` was trained on the case, under its own or another name.
    pub fn is_trained_on(&self, fold: &FoldManifest, case: &str, image_sha256: &str) -> bool {
        self.is_among(&fold.trained_on, case, image_sha256)
    }

    /// The position of a network that held the case out (out of fold); `None` for a case that no network was trained
    /// on, which all networks may segment.
    ///
    /// # Errors
    /// Every network was trained on the case.
    pub fn out_of_fold_network(&self, case: &str, image_sha256: &str) -> Result<Option<usize>> {
        let saw = |fold: &FoldManifest| self.is_trained_on(fold, case, image_sha256);
        let held_out = |fold: &FoldManifest| self.is_among(&fold.held_out, case, image_sha256);
        let fair = self
            .folds
            .iter()
            .position(|fold| held_out(fold) && !saw(fold));
        if fair.is_some() || !self.folds.iter().any(saw) {
            return Ok(fair);
        }
        let names = self.names_of(image_sha256);
        let known_as = match names.first().filter(|_| !names.contains(&case)) {
            Some(name) => format!(" (as {name}, the same image)"),
            None => String::new(),
        };
        Err(Error::invalid(format!(
            "every stage-1 network of the model was trained on case {case}{known_as}, so there is no out-of-fold result for it; train the missing folds ('ctseg fit --stage 1')"
        )))
    }

    fn is_among(&self, ids: &[String], case: &str, image_sha256: &str) -> bool {
        let names = self.names_of(image_sha256);
        // Versions without image hashes named a case by its file: p1_0000.
        let by_file = |id: &str| self.by_image.is_empty() && id.strip_suffix("_0000") == Some(case);
        ids.iter()
            .any(|id| id == case || names.contains(&id.as_str()) || by_file(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    fn stage(folds: &[(&[&str], &[&str])], images: &[(&str, &str)]) -> StageManifest {
        let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let folds = folds.iter().enumerate();
        StageManifest {
            dataset: "d".to_owned(),
            data_fingerprint: String::new(),
            seed: 1,
            engine: String::new(),
            stage1_sha256: None,
            channel: None,
            folds: folds
                .map(|(fold, (held_out, trained_on))| FoldManifest {
                    fold,
                    epoch: 1,
                    validation_dice: None,
                    held_out: owned(held_out),
                    trained_on: owned(trained_on),
                    input_ranges: None,
                })
                .collect(),
            image_sha256: images
                .iter()
                .map(|(name, image)| ((*name).to_owned(), (*image).to_owned()))
                .collect(),
            recipe: Recipe::named("1", &[]).unwrap(),
        }
    }

    #[test]
    fn a_case_is_identified_by_its_name_or_its_image() {
        let images = [("a", "A"), ("b", "B"), ("b-copy", "B")];
        let two = stage(
            &[(&["a"], &["b", "b-copy"]), (&["b", "b-copy"], &["a"])],
            &images,
        );
        let known = KnownCases::new(&two);
        let fair = |case: &str, image: &str| known.out_of_fold_network(case, image).unwrap();
        assert_eq!((fair("a", "A"), fair("b", "B")), (Some(0), Some(1)));
        // Under another name, and another image under its name.
        assert_eq!((fair("x", "A"), fair("x", "B")), (Some(0), Some(1)));
        assert_eq!(fair("a", "other"), Some(0));
        assert_eq!(fair("x", "other"), None);
        assert!(known.is_trained_on(&two.folds[0], "x", "B"));
        assert!(!known.is_trained_on(&two.folds[0], "x", "A"));
        // A copy in training is not a held-out case.
        let overlapping = stage(&[(&["b"], &["a", "b-copy"])], &images);
        let error = |case: &str, image: &str| {
            let error = KnownCases::new(&overlapping)
                .out_of_fold_network(case, image)
                .unwrap_err();
            error.to_string()
        };
        assert!(
            error("b", "B").contains("case b, so there is no out-of-fold"),
            "{}",
            error("b", "B")
        );
        assert!(error("x", "A").contains("case x (as a, the same image)"));
        // Of early versions.
        let old = stage(&[(&["a"], &["b", "p_0000"])], &[]);
        let known = KnownCases::new(&old);
        assert!(known.by_name_alone());
        assert_eq!(known.out_of_fold_network("a", "A").unwrap(), Some(0));
        assert_eq!(known.out_of_fold_network("x", "B").unwrap(), None);
        assert!(known.is_trained_on(&old.folds[0], "p", "P"));
    }
}
