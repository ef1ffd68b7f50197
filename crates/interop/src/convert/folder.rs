//! The folder of a converted dataset: its settings, and a check that nothing foreign is in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::FOLDERS;
use super::job::Overlaps;
use super::labels::Labels;
use super::target::Format;
use ctseg_base::atomic_file::{ensure_not_file, write_bytes_atomically};
use ctseg_base::temp_files::remove_stale_temp_files;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};

pub(super) const SETTINGS: &str = "conversion.json";

/// `conversion.json`: what was converted, and how. A run with the same settings resumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub ctseg_version: String,
    /// Folder or descriptor.
    pub source: PathBuf,
    pub source_layout: String,
    pub format: Format,
    pub channels: Vec<String>,
    pub overlaps: Overlaps,
    /// Every label's value in the source and here; 0 is background in both.
    pub labels: Labels,
}

impl Settings {
    /// Settings of an earlier run.
    fn read(folder: &Path) -> Option<Self> {
        serde_json::from_str(&read_text(&folder.join(SETTINGS)).ok()?).ok()
    }

    fn same_but_version(&self, other: &Self) -> bool {
        let version = other.ctseg_version.clone();
        Self {
            ctseg_version: version,
            ..self.clone()
        } == *other
    }

    /// Whether `folder` is from an earlier run with these settings, whose cases can be kept. False for a new or empty
    /// folder, and for an earlier conversion that `overwrite` replaces.
    ///
    /// # Errors
    /// Any other existing content.
    pub fn can_resume(&self, folder: &Path, overwrite: bool) -> Result<bool> {
        ensure_not_file(folder)?;
        let is_empty = match std::fs::read_dir(folder) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => return Err(Error::io(folder, "read the folder")(error)),
        };
        match Self::read(folder) {
            _ if is_empty => Ok(false),
            None => Err(Error::file(
                folder,
                "already exists and was not written by 'ctseg convert'; choose another --name, --id or -o, or remove it",
            )),
            Some(_) if overwrite => Ok(false),
            Some(old) if self.same_but_version(&old) => Ok(true),
            Some(old) => Err(Error::file(
                folder,
                format!(
                    "contains a conversion of {}{}; choose another --name, --id or -o, or replace it with --overwrite",
                    old.source.display(),
                    if old.source == self.source {
                        " with different settings"
                    } else {
                        ""
                    }
                ),
            )),
        }
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(SETTINGS);
        let text = serde_json::to_string_pretty(self).map_err(|error| {
            Error::file(&path, format!("cannot describe the conversion: {error}"))
        })?;
        write_bytes_atomically(&path, (text + "\n").as_bytes())
    }
}

/// Checks that all files in the image and label folders are in `known`, and removes temporary files of processes that
/// no longer run.
///
/// # Errors
/// An unknown file: programs would treat it as a case.
pub(super) fn check_content(folder: &Path, known: &BTreeSet<&PathBuf>) -> Result<()> {
    remove_stale_temp_files(folder)?;
    for part in FOLDERS {
        let below = folder.join(part);
        if !below.is_dir() {
            continue;
        }
        remove_stale_temp_files(&below)?;
        let entries = std::fs::read_dir(&below).map_err(Error::io(&below, "read the folder"))?;
        for entry in entries {
            let name = entry
                .map_err(Error::io(&below, "read the folder"))?
                .file_name();
            let path = Path::new(part).join(&name);
            if !name.to_string_lossy().starts_with('.') && !known.contains(&path) {
                return Err(Error::file(
                    folder.join(path),
                    "does not belong to this conversion and would be treated as part of the dataset; move it elsewhere",
                ));
            }
        }
    }
    Ok(())
}

/// Removes files below `folder`, if they exist.
pub(super) fn remove<'a>(folder: &Path, files: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    for file in files {
        let path = folder.join(file);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(&path, "remove")(error));
            }
            _ => {}
        }
    }
    Ok(())
}
