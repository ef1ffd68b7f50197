//! Writes generated datasets to disk.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use ctseg_base::atomic_file::{parent_of, rename_folder, write_bytes_atomically};
use ctseg_base::progress::Observer;
use ctseg_base::temp_files::temporary_folder;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{LabelNames, VolumeHeader, VoxelType, write_label_map, write_volume};
use ctseg_image::space::{LabelMap, Volume};

/// A dataset generated case by case.
pub(crate) struct GeneratedSet<'a> {
    /// What the cases are, in the plural, such as `phantoms`.
    pub what: &'static str,
    /// Text of `dataset.toml`; it differs between settings.
    pub descriptor: String,
    pub cases: Vec<String>,
    /// Image and labels of the case with this index.
    pub make: &'a (dyn Fn(usize) -> (Volume, LabelMap) + Sync),
}

impl GeneratedSet<'_> {
    /// Writes the cases as `images/` and `labels/` below `folder` with a descriptor `dataset.toml`, and
    /// returns its path. An existing dataset of the same settings is kept.
    ///
    /// # Errors
    /// The folder holds anything else, or cannot be written.
    pub fn written(&self, folder: &Path, observer: &dyn Observer) -> Result<PathBuf> {
        let descriptor = folder.join("dataset.toml");
        if read_text(&descriptor).is_ok_and(|existing| existing == self.descriptor) {
            return Ok(descriptor);
        }
        if folder
            .read_dir()
            .is_ok_and(|mut entries| entries.next().is_some())
        {
            return Err(Error::file(
                folder,
                format!(
                    "holds other data than the requested {}; choose another folder, or remove it to generate them again",
                    self.what
                ),
            ));
        }
        let task = observer.task(
            &format!("generating {}", self.what),
            self.cases.len() as u64,
            "volumes",
        );
        // Written beside the folder and renamed when complete: a kill leaves no partial dataset.
        let fresh = temporary_folder(parent_of(folder))?;
        self.cases
            .par_iter()
            .enumerate()
            .try_for_each(|(index, case)| {
                let (volume, labels) = (self.make)(index);
                let name = format!("{case}.nii.gz");
                write_volume(
                    &fresh.path().join("images").join(&name),
                    &volume,
                    VoxelType::I16,
                )?;
                let header = VolumeHeader::new(labels.grid, VoxelType::U8);
                let file = fresh.path().join("labels").join(&name);
                write_label_map(&file, &labels, &header, &LabelNames::new())?;
                task.advance(1);
                Ok::<(), Error>(())
            })?;
        write_bytes_atomically(
            &fresh.path().join("dataset.toml"),
            self.descriptor.as_bytes(),
        )?;
        rename_folder(fresh.path(), folder)?;
        let _ = fresh.keep();
        Ok(descriptor)
    }
}
