//! Decides what to do with a case whose files already exist, for batches with and without claims.
//!
//! | label map (or mask)                                            | decision                              |
//! |----------------------------------------------------------------|---------------------------------------|
//! | missing                                                        | make                                  |
//! | sidecar says `writing`, or the file cannot be decoded          | make                                  |
//! | matches the sidecar, same input and model                      | keep                                  |
//! | matches the sidecar, other input or model                      | make                                  |
//! | differs from the sidecar, but readable and on the input's grid | keep: edited by the user              |
//! | no sidecar, or one that does not list the file                 | error: not made by ctseg              |
//!
//! The same input means the same file with the same rescaling to Hounsfield units ([`Sidecar::matches`]). Derived files
//! (preview, statistics, probabilities, entropy) that differ from the sidecar are made again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::sidecar::{Found, Sidecar, find_sidecar, sidecar_path};
use ctseg_base::atomic_file::parent_of;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{read_header, read_label_runs};
use ctseg_image::space::GridTolerance;

/// What to do with a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Make,
    Keep,
    /// The user has edited this file, so the case is kept.
    KeepChanged(PathBuf),
}

/// A case and its expected files.
pub struct Wanted<'a> {
    pub input: &'a Path,
    /// Path of its label map, which may not exist.
    pub output: &'a Path,
    /// All of its files, relative to the label map's folder.
    pub files: &'a [PathBuf],
    /// The files that users edit: label map and masks.
    pub editable: &'a [PathBuf],
}

impl Wanted<'_> {
    /// Decides what to do with the case; `is_current` tells whether a finished case was made from the same input with
    /// the same model and settings.
    ///
    /// # Errors
    /// A file that ctseg did not make would be overwritten; an edited label map has another grid than its input, or
    /// cannot be read.
    pub fn decide(&self, is_current: impl Fn(&Sidecar) -> bool) -> Result<Decision> {
        let sidecar = sidecar_path(self.output);
        let made = match find_sidecar(self.output)? {
            Found::Nothing => {
                self.refuse_others(|_| false)?;
                return Ok(Decision::Make);
            }
            Found::Foreign => {
                self.refuse_others(|_| false)?;
                return Err(Error::file(
                    sidecar,
                    "was not made by ctseg; use --overwrite to replace it with the case's sidecar, or choose another -o",
                ));
            }
            Found::Partial(partial) => {
                self.refuse_others(|file| partial.files.contains(file))?;
                return Ok(Decision::Make);
            }
            Found::Done(made) => made,
        };
        self.refuse_others(|file| made.written.contains_key(file) || made.files.contains(file))?;
        let mut is_whole = true;
        for file in self.files {
            if made.is_intact(self.output, file) {
                continue;
            }
            is_whole = false;
            if self.editable.contains(file) && self.is_changed_by_hand(file)? {
                return self.kept(file);
            }
        }
        Ok(match is_whole && is_current(&made) {
            true => Decision::Keep,
            false => Decision::Make,
        })
    }

    /// Refuses to overwrite files that do not belong to the case.
    fn refuse_others(&self, is_own: impl Fn(&PathBuf) -> bool) -> Result<()> {
        let mut files = self.files.iter();
        match files.find(|file| self.is_there(file) && !is_own(file)) {
            None => Ok(()),
            Some(file) => Err(Error::file(
                self.path(file),
                "was not made by ctseg; use --overwrite to replace it, or choose another -o",
            )),
        }
    }

    /// Whether a file that differs from the sidecar was edited by the user. A file that cannot be decoded is
    /// truncated or damaged.
    fn is_changed_by_hand(&self, file: &Path) -> Result<bool> {
        if !self.is_there(file) {
            return Ok(false);
        }
        let path = self.path(file);
        let header = match read_label_runs(&path) {
            Ok((header, _)) => header,
            Err(Error::Io { cause, .. }) if cause.kind() == ErrorKind::NotFound => {
                return Ok(false); // a broken link
            }
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(_) => return Ok(false),
        };
        let image = read_header(self.input)?.grid;
        // Other programs round headers and reorder axes when they save.
        match GridTolerance::default().reorientation(&header.grid, &image, "image") {
            Ok(_) => Ok(true),
            Err(_) => Err(Error::file(
                path,
                format!(
                    "was changed since ctseg wrote it, and now {}; resample the labels onto the image, correct the wrong \
                     header, or use --overwrite to replace the file",
                    header.grid.difference_from(&image, "image")
                ),
            )),
        }
    }

    /// Keeps the case, unless another editable file is missing.
    fn kept(&self, file: &Path) -> Result<Decision> {
        match self.editable.iter().find(|other| !self.is_there(other)) {
            None => Ok(Decision::KeepChanged(self.path(file))),
            Some(missing) => Err(Error::file(
                self.path(file),
                format!(
                    "was changed since ctseg wrote it, and would be overwritten together with {}, which is missing; \
                     move it away, or use --overwrite",
                    missing.display()
                ),
            )),
        }
    }

    fn path(&self, file: &Path) -> PathBuf {
        parent_of(self.output).join(file)
    }

    /// Broken links count: they belong to the user.
    fn is_there(&self, file: &Path) -> bool {
        self.path(file).symlink_metadata().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::super::sidecar::Written;
    use super::*;
    use ctseg_image::formats::{VoxelType, write_volume};
    use ctseg_image::space::{Grid, Volume};

    /// A volume, its finished label map and mask, and their sidecar.
    struct Case(tempfile::TempDir);

    const FILES: [&str; 3] = ["case.nii.gz", "case/liver.nii.gz", "case_preview.png"];

    impl Case {
        fn made() -> Self {
            let case = Self(tempfile::tempdir().unwrap());
            let grid = Grid::with_spacing([4, 3, 2], [1.0; 3]);
            let data = ndarray::Array3::zeros(grid.shape_zyx());
            write_volume(&case.input(), &Volume { grid, data }, VoxelType::I16).unwrap();
            case.write(FILES[0], grid, 1);
            case.write(FILES[1], grid, 1);
            fs::write(case.at(FILES[2]), "picture").unwrap();
            let written = FILES.map(|file| (file, json!(Written::at(&case.at(file)).unwrap())));
            case.sidecar(&json!({"files": FILES, "written": Value::from_iter(written)}));
            case
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn input(&self) -> PathBuf {
            self.at("volume.nii")
        }

        fn write(&self, name: &str, grid: Grid, label: u16) {
            let data = ndarray::Array3::from_elem(grid.shape_zyx(), f32::from(label));
            write_volume(&self.at(name), &Volume { grid, data }, VoxelType::I16).unwrap();
        }

        fn sidecar(&self, more: &Value) {
            let mut sidecar = json!({
                "input": "", "input_sha256": "input", "model": "", "model_sha256": "model",
                "ctseg_version": "", "device": "", "shape": [1, 1, 1], "spacing_mm": [1.0, 1.0, 1.0],
                "orientation": "", "notes": [], "volumes_ml": {}, "structures": {}, "seconds": 1.0,
                "peak_memory_mb": null,
                "cascade": {"roi": null, "roi_share": null, "notes": [], "seconds": {}},
            });
            for (key, value) in more.as_object().unwrap() {
                sidecar[key] = value.clone();
            }
            fs::write(self.at("case.json"), sidecar.to_string()).unwrap();
        }

        fn writing(&self, files: &[&str]) {
            let partial =
                json!({"state": "writing", "input": "", "ctseg_version": "", "files": files});
            fs::write(self.at("case.json"), partial.to_string()).unwrap();
        }

        fn decided(&self, is_current: bool) -> Result<Decision> {
            let files = FILES.map(PathBuf::from);
            let wanted = Wanted {
                input: &self.input(),
                output: &self.at(FILES[0]),
                files: &files,
                editable: &files[..2],
            };
            wanted.decide(|made| made.input_sha256 == "input" && is_current)
        }

        fn refused(&self) -> String {
            self.decided(true).unwrap_err().to_string()
        }
    }

    #[test]
    fn files_made_by_ctseg_are_kept_or_made_again() {
        let case = Case::made();
        assert_eq!(case.decided(true).unwrap(), Decision::Keep);
        assert_eq!(case.decided(false).unwrap(), Decision::Make);
        fs::write(case.at(FILES[2]), "another picture").unwrap();
        assert_eq!(case.decided(true).unwrap(), Decision::Make);
        // Killed between the first file and the sidecar.
        let case = Case::made();
        case.writing(&FILES);
        assert_eq!(case.decided(true).unwrap(), Decision::Make);
        for file in FILES {
            fs::remove_file(case.at(file)).unwrap();
            assert_eq!(case.decided(true).unwrap(), Decision::Make);
        }
        // Deleted, with its mask and without.
        for files in [&FILES[..1], &FILES[..2], &FILES[1..2]] {
            let case = Case::made();
            files
                .iter()
                .for_each(|file| fs::remove_file(case.at(file)).unwrap());
            assert_eq!(case.decided(true).unwrap(), Decision::Make);
        }
        let case = Case::made();
        let bytes = fs::read(case.at(FILES[0])).unwrap();
        fs::write(case.at(FILES[0]), &bytes[..bytes.len() - 9]).unwrap();
        assert_eq!(case.decided(true).unwrap(), Decision::Make);
        fs::write(case.at(FILES[0]), "").unwrap();
        assert_eq!(case.decided(true).unwrap(), Decision::Make);
    }

    #[test]
    fn edited_files_are_kept() {
        let grid = Grid::with_spacing([4, 3, 2], [1.0; 3]);
        for file in &FILES[..2] {
            let case = Case::made();
            case.write(file, grid, 7);
            for is_current in [true, false] {
                let decided = case.decided(is_current).unwrap();
                assert_eq!(decided, Decision::KeepChanged(case.at(file)));
            }
            let elsewhere = Grid::with_spacing([4, 3, 2], [2.0; 3]);
            case.write(file, elsewhere, 7);
            let error = case.refused();
            assert!(
                error.contains("was changed") && error.contains("--overwrite"),
                "{error}"
            );
        }
        // The mask cannot be kept while the label map is made again.
        let case = Case::made();
        case.write(FILES[1], grid, 7);
        fs::remove_file(case.at(FILES[0])).unwrap();
        assert!(case.refused().contains("case.nii.gz, which is missing"));
        // The oldest sidecars have no hashes of files.
        let case = Case::made();
        case.sidecar(&json!({"files": FILES}));
        let decided = case.decided(true).unwrap();
        assert_eq!(decided, Decision::KeepChanged(case.at(FILES[0])));
    }

    #[test]
    fn files_not_made_by_ctseg_are_refused() {
        let case = Case::made();
        fs::remove_file(case.at("case.json")).unwrap();
        let error = case.refused();
        assert!(
            error.contains("not made by ctseg") && error.contains("case.nii.gz"),
            "{error}"
        );
        // For example from a DICOM converter.
        fs::write(case.at("case.json"), r#"{"Modality": "CT"}"#).unwrap();
        assert!(case.refused().contains("not made by ctseg"));
        for file in FILES {
            fs::remove_file(case.at(file)).unwrap();
        }
        let error = case.refused();
        assert!(
            error.contains("case.json: was not made by ctseg"),
            "{error}"
        );
        fs::remove_file(case.at("case.json")).unwrap();
        assert_eq!(case.decided(true).unwrap(), Decision::Make);
        // A mask that existed before the case had masks, complete or partial.
        let case = Case::made();
        case.sidecar(&json!({"files": [FILES[0]], "written": {}}));
        assert!(case.refused().contains("liver.nii.gz"));
        case.writing(&FILES[..1]);
        assert!(case.refused().contains("liver.nii.gz"));
    }
}
