//! Locates nnU-Net models: results folders, model folders in them, and zip files from
//! `nnUNetv2_export_model_to_zip`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use ctseg_base::text::file::read_text_at_most;
use ctseg_base::unzip::unzip_to_temp;
use ctseg_base::{Error, Result};

/// Maximum size of a JSON file in bytes.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// Maximum depth of model folders below the given folder: results folder and dataset, and folders packed around them.
const MAX_DEPTH: usize = 6;

pub(super) const PLANS: &str = "plans.json";
pub(super) const DATASET: &str = "dataset.json";
/// Written by nnUNetv2_find_best_configuration for nnUNetv2_apply_postprocessing.
const POSTPROCESSING: &str = "postprocessing.pkl";

/// A folder with models; an unpacked zip file is deleted on drop.
pub(super) struct Source {
    pub folder: PathBuf,
    /// The path given by the user.
    pub origin: PathBuf,
    /// The folder of an unpacked zip file.
    _unpacked: Option<tempfile::TempDir>,
}

impl Source {
    /// Opens a folder, or unpacks a zip file beside `target`.
    pub(super) fn open(path: &Path, target: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self {
                folder: path.to_path_buf(),
                origin: path.to_path_buf(),
                _unpacked: None,
            });
        }
        if !path.is_file() {
            return Err(Error::file(
                path,
                "does not exist; expected an nnU-Net results folder, a model folder in it, or a zip of them",
            ));
        }
        let unpacked = unzip_to_temp(path, target, &|name| {
            let mut endings = [".json", ".pth", POSTPROCESSING].into_iter();
            endings.any(|ending| name.ends_with(ending))
        })?;
        Ok(Self {
            folder: unpacked.path().to_path_buf(),
            origin: path.to_path_buf(),
            _unpacked: Some(unpacked),
        })
    }

    /// The only model folder, or that of the given configuration.
    ///
    /// # Errors
    /// No model, or several to choose from.
    pub(super) fn model(&self, configuration: Option<&str>) -> Result<PathBuf> {
        let mut found = Vec::new();
        collect(&self.folder, MAX_DEPTH, &mut found);
        found.sort();
        let names = || {
            let names = found
                .iter()
                .filter_map(|folder| folder.file_name()?.to_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let fits = |folder: &&PathBuf| match configuration {
            Some(wanted) => configuration_of(folder) == Some(wanted),
            None => true,
        };
        let fitting: Vec<&PathBuf> = found.iter().filter(fits).collect();
        match (fitting.as_slice(), configuration) {
            ([one], _) => Ok((*one).clone()),
            ([], _) if found.is_empty() => Err(Error::file(
                &self.origin,
                "contains no nnU-Net 2 model (no plans.json); expected …/Dataset123_Name/nnUNetTrainer__nnUNetPlans__3d_fullres",
            )),
            ([], Some(wanted)) => Err(Error::file(
                &self.origin,
                format!(
                    "contains no model with configuration '{wanted}'; it contains {}",
                    names()
                ),
            )),
            _ => Err(Error::file(
                &self.origin,
                format!(
                    "contains several models ({}); choose one with --configuration, or give its folder",
                    names()
                ),
            )),
        }
    }
}

/// The configuration that a model folder's name ends with.
pub(super) fn configuration_of(folder: &Path) -> Option<&str> {
    folder.file_name()?.to_str()?.rsplit("__").next()
}

/// The model folder of another configuration in the same folder.
pub(super) fn sibling(folder: &Path, configuration: &str) -> Option<PathBuf> {
    let name = folder.file_name()?.to_str()?;
    let (kind, _) = name.rsplit_once("__")?;
    let sibling = folder.with_file_name(format!("{kind}__{configuration}"));
    sibling.join(PLANS).is_file().then_some(sibling)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if folder.join(PLANS).is_file() {
        found.push(folder.to_path_buf());
        return;
    }
    if depth == 0 {
        return;
    }
    // Folders that cannot be read are skipped.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), depth - 1, found);
        }
    }
}

/// The postprocessing file beside a model's folds, or in one of its folders.
pub(super) fn postprocessing(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    let mut found: Vec<PathBuf> = std::iter::once(folder.to_path_buf())
        .chain(folders)
        .map(|folder| folder.join(POSTPROCESSING))
        .filter(|file| file.is_file())
        .collect();
    found.sort();
    found.pop()
}

/// Reads a JSON file of a plausible size.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let length = std::fs::metadata(path)
        .map_err(Error::io(path, "read"))?
        .len();
    if length > MAX_JSON_BYTES {
        return Err(Error::file(
            path,
            format!("is {length} bytes long; expected an nnU-Net JSON file of a few kilobytes"),
        ));
    }
    let text = read_text_at_most(path, MAX_JSON_BYTES).map_err(Error::io(path, "read"))?;
    // Python writes NaN and Infinity, which are not JSON; no value used here has them.
    serde_json::from_str(&text)
        .or_else(|_| serde_json::from_str(&without_nan(&text)))
        .map_err(|error| Error::file(path, format!("is not JSON: {error}")))
}

/// `NaN` and `Infinity` as null.
fn without_nan(text: &str) -> String {
    text.replace("-Infinity", "null")
        .replace("Infinity", "null")
        .replace("NaN", "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let model = folder.path().join(name);
            std::fs::create_dir_all(&model).unwrap();
            std::fs::write(model.join(PLANS), r#"{"a": NaN, "b": [-Infinity]}"#).unwrap();
        }
        folder
    }

    #[test]
    fn the_model_is_found_or_the_choice_is_listed() {
        let full = "Dataset001_A/nnUNetTrainer__nnUNetPlans__3d_fullres";
        let low = "Dataset001_A/nnUNetTrainer__nnUNetPlans__3d_lowres";
        let folder = models(&[full, low]);
        let source = Source::open(folder.path(), folder.path()).unwrap();
        let error = source.model(None).unwrap_err().to_string();
        assert!(
            error.contains("3d_lowres") && error.contains("--configuration"),
            "{error}"
        );
        let found = source.model(Some("3d_fullres")).unwrap();
        assert_eq!(found, folder.path().join(full));
        assert_eq!(sibling(&found, "3d_lowres"), Some(folder.path().join(low)));
        assert_eq!(sibling(&found, "2d"), None);
        let error = source.model(Some("2d")).unwrap_err().to_string();
        assert!(
            error.contains("'2d'") && error.contains("3d_fullres"),
            "{error}"
        );
        let alone = Source::open(&found, folder.path()).unwrap();
        assert_eq!(alone.model(None).unwrap(), found);
        let json = read_json(&found.join(PLANS)).unwrap();
        assert!(json["a"].is_null() && json["b"][0].is_null());
        // Nested deeper, beside an irrelevant folder.
        let deep = models(&["a/b/nnUNet_results/Dataset001_A/T__P__2d", "__MACOSX/x"]);
        let source = Source::open(deep.path(), deep.path()).unwrap();
        let found = source.model(Some("2d")).unwrap();
        assert_eq!(postprocessing(&found), None);
        std::fs::create_dir(found.join("crossval_results_folds_0")).unwrap();
        let file = found.join("crossval_results_folds_0/postprocessing.pkl");
        std::fs::write(&file, "").unwrap();
        assert_eq!(postprocessing(&found), Some(file));
        let nothing = models(&[]);
        let source = Source::open(nothing.path(), nothing.path()).unwrap();
        assert!(
            source
                .model(None)
                .unwrap_err()
                .to_string()
                .contains("plans.json")
        );
    }
}
