//! A dataset of generated phantoms on disk, for `ctseg demo` and for `ctseg fit` without data.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::observer::Observer;
use crate::arrays::nifti::{NiftiHeader, VoxelType, write_labels, write_volume};
use crate::arrays::phantom::{PhantomOptions, STRUCTURES, generate};
use crate::error::{Error, Result};
use crate::files::{parent_of, temporary_folder, write_bytes_atomically};

/// How many phantoms, and which.
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
    /// Writes the phantoms as `images/` and `labels/` below `folder` with their descriptor `dataset.toml`,
    /// whose path is returned. What is there already, from the same settings, is kept.
    ///
    /// # Errors
    /// The folder holds anything else, or cannot be written.
    pub fn written(&self, folder: &Path, observer: &dyn Observer) -> Result<PathBuf> {
        let descriptor = folder.join("dataset.toml");
        let text = self.descriptor();
        if std::fs::read_to_string(&descriptor).is_ok_and(|there| there == text) {
            return Ok(descriptor);
        }
        if folder
            .read_dir()
            .is_ok_and(|mut entries| entries.next().is_some())
        {
            return Err(Error::file(
                folder,
                "holds other data than these phantoms; choose another folder, or remove it to have them made anew",
            ));
        }
        let task = observer.task(
            "generating phantoms",
            (self.train + self.test) as u64,
            "volumes",
        );
        // Made beside the folder and renamed when whole: a kill leaves no half dataset.
        let fresh = temporary_folder(parent_of(folder))?;
        let options = PhantomOptions {
            seed: self.seed,
            ..PhantomOptions::default()
        };
        (0..self.train + self.test)
            .into_par_iter()
            .try_for_each(|index| {
                let (volume, labels) = generate(index as u64, &options);
                let name = format!("{}.nii.gz", case_id(index));
                write_volume(
                    &fresh.path().join("images").join(&name),
                    &volume,
                    VoxelType::I16,
                )?;
                let header = NiftiHeader::for_grid(&labels.grid)?;
                write_labels(&fresh.path().join("labels").join(&name), &labels, &header)?;
                task.advance(1);
                Ok::<(), Error>(())
            })?;
        write_bytes_atomically(&fresh.path().join("dataset.toml"), text.as_bytes())?;
        std::fs::rename(fresh.keep(), folder)
            .map_err(Error::io(folder, "rename the finished phantoms to"))?;
        Ok(descriptor)
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
    use crate::pipeline::dataset::{CheckDepth, Dataset};
    use crate::pipeline::observer::Silent;

    #[test]
    fn phantoms_make_a_sound_dataset_that_is_kept() {
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
