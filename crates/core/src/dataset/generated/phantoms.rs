//! A dataset of generated phantoms on disk, for `ctseg demo` and `ctseg fit` without data.

use std::path::{Path, PathBuf};

use super::GeneratedSet;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_phantom::{PhantomOptions, STRUCTURES, generate};

/// Number of phantoms, and their seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhantomSet {
    pub train: usize,
    pub test: usize,
    pub seed: u64,
}

impl Default for PhantomSet {
    fn default() -> Self {
        Self {
            train: 24,
            test: 6,
            seed: 1,
        }
    }
}

impl PhantomSet {
    /// Writes the phantoms as `images/` and `labels/` below `folder` with a descriptor `dataset.toml`, and
    /// returns its path. An existing dataset of the same settings is kept.
    ///
    /// # Errors
    /// The folder holds anything else, or cannot be written.
    pub fn written(&self, folder: &Path, observer: &dyn Observer) -> Result<PathBuf> {
        let options = PhantomOptions {
            seed: self.seed,
            ..PhantomOptions::default()
        };
        let set = GeneratedSet {
            what: "phantoms",
            descriptor: self.descriptor(),
            cases: (0..self.train + self.test).map(case_id).collect(),
            make: &|index| generate(index as u64, &options),
        };
        set.written(folder, observer)
    }

    fn descriptor(&self) -> String {
        let test: Vec<String> = (self.train..self.train + self.test)
            .map(|index| format!("\"{}\"", case_id(index)))
            .collect();
        let structures: String = STRUCTURES
            .iter()
            .map(|(value, name)| format!("{name} = {value}\n"))
            .collect();
        format!(
            "# Generated CT-like phantoms: {} to train on, {} to test, seed {}.\n\
             name = \"phantoms\"\n\
             images = \"images/*.nii.gz\"\n\
             labels = \"labels/{{case}}.nii.gz\"\n\
             test = [{}]\n\n\
             [structures]\n{structures}",
            self.train,
            self.test,
            self.seed,
            test.join(", ")
        )
    }
}

fn case_id(index: usize) -> String {
    format!("phantom_{index:03}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{CheckDepth, Dataset};
    use ctseg_base::progress::Silent;

    #[test]
    fn phantoms_make_a_valid_dataset_that_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let set = PhantomSet {
            train: 2,
            test: 1,
            seed: 5,
        };
        let descriptor = set.written(folder.path(), &Silent).unwrap();
        let dataset = Dataset::open(&descriptor).unwrap();
        assert_eq!(
            (dataset.cases.len(), dataset.training_cases().len()),
            (3, 2)
        );
        assert_eq!(dataset.structures.len(), STRUCTURES.len());
        let report = dataset.check(CheckDepth::Headers, |_, _| ());
        assert!(report.problems.is_empty(), "{:?}", report.problems);

        let image = &dataset.cases[0].image;
        let before = std::fs::read(image).unwrap();
        std::fs::write(image, b"kept").unwrap();
        set.written(folder.path(), &Silent).unwrap();
        assert_eq!(std::fs::read(image).unwrap(), b"kept");
        std::fs::write(image, before).unwrap();
        let other = PhantomSet { seed: 6, ..set };
        assert!(
            other
                .written(folder.path(), &Silent)
                .unwrap_err()
                .to_string()
                .contains("other data")
        );
    }
}
