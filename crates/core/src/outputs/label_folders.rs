//! Folders of reference labels, which are refused as output folders.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::inputs::is_own;
use super::names::PredictCase;
use ctseg_base::atomic_file::parent_of;
use ctseg_base::{Error, Result};
use ctseg_image::formats::is_volume_name;

/// Names of label folders in datasets.
const LABELS: [&str; 6] = [
    "labels",
    "labelsTr",
    "labelsTs",
    "labelsVal",
    "label",
    "segmentations",
];

/// Files that describe a dataset, in its folder.
const DESCRIPTIONS: [&str; 2] = ["dataset.json", "dataset.toml"];

/// Largest depth of a dataset's images below its folder.
const DEPTH: usize = 3;

/// Refuses cases whose label maps would be written into the label folder of a dataset that one of the volumes belongs
/// to.
///
/// # Errors
/// There is such a case; the message names the folder.
pub fn refuse_label_folders(cases: &[PredictCase]) -> Result<()> {
    let inputs: BTreeSet<&Path> = cases.iter().map(|case| parent_of(&case.input)).collect();
    let labels: BTreeSet<PathBuf> = inputs.into_iter().flat_map(labels_beside).collect();
    if labels.is_empty() {
        return Ok(());
    }
    let outputs: BTreeSet<&Path> = cases.iter().map(|case| parent_of(&case.output)).collect();
    for output in outputs {
        let real = real_path(output);
        if let Some(labels) = labels.iter().find(|labels| real.starts_with(labels)) {
            return Err(Error::usage(format!(
                "-o {}: is inside {}, the reference labels of the volumes' dataset; choose another folder",
                output.display(),
                labels.display()
            )));
        }
    }
    Ok(())
}

/// The label folders of the datasets that a folder of volumes may belong to.
fn labels_beside(images: &Path) -> Vec<PathBuf> {
    let Ok(images) = images.canonicalize() else {
        return Vec::new();
    };
    let above = images.ancestors().take(DEPTH + 1);
    let folders = above.flat_map(|dataset| LABELS.map(|name| (dataset, dataset.join(name))));
    let labels = folders.filter(|(dataset, labels)| {
        let described = || DESCRIPTIONS.iter().any(|name| dataset.join(name).is_file());
        labels.is_dir() && (described() || has_others(labels))
    });
    labels.map(|(_, labels)| labels).collect()
}

/// Whether a folder, or one directly below it, contains label maps that ctseg did not make.
fn has_others(labels: &Path) -> bool {
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let is_other = |file: &PathBuf| is_volume_name(file) && file.is_file() && !is_own(file);
    files(labels)
        .iter()
        .any(|path| is_other(path) || (path.is_dir() && files(path).iter().any(is_other)))
}

/// Resolves links of a path whose last components may not exist yet.
fn real_path(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let real = path.ancestors().find_map(|existing| {
        let rest = path.strip_prefix(existing).ok()?;
        Some(existing.canonicalize().ok()?.join(rest))
    });
    real.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    const FILES: [&str; 10] = [
        "nn/imagesTr/c_0000.nii.gz",
        "nn/labelsTr/c.nii.gz",
        "plain/images/deep/c.nii.gz",
        "plain/labels/c.nii.gz",
        "ts/s0000/ct.nii.gz",
        "ts/s0000/segmentations/liver.nii.gz",
        "free/images/c.nii.gz",
        "free/labels/c.nii.gz",
        "described/images/c.nii.gz",
        "described/dataset.json",
    ];

    #[test]
    fn labels_of_a_dataset_are_refused_and_own_outputs_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in FILES {
            file(&at(name));
        }
        fs::create_dir_all(at("described/labels")).unwrap();
        // Output of an earlier run.
        let partial =
            r#"{"state": "writing", "input": "c", "ctseg_version": "0", "files": ["c.nii.gz"]}"#;
        fs::write(at("free/labels/c.json"), partial).unwrap();
        let refused = |input: &str, output: &str| {
            let case = PredictCase::new(at(input), at(output));
            refuse_label_folders(&[case]).is_err()
        };
        assert!(refused("nn/imagesTr/c_0000.nii.gz", "nn/labelsTr/c.nii.gz"));
        assert!(refused(
            "nn/imagesTr/c_0000.nii.gz",
            "nn/labelsTr/new/c.nii.gz"
        ));
        assert!(refused(
            "nn/imagesTr/c_0000.nii.gz",
            "plain/../nn/labelsTr/x.nii"
        ));
        assert!(!refused(
            "nn/imagesTr/c_0000.nii.gz",
            "nn/labelsTs/c.nii.gz"
        ));
        assert!(!refused("nn/imagesTr/c_0000.nii.gz", "nn/out/c.nii.gz"));
        assert!(!refused(
            "nn/imagesTr/c_0000.nii.gz",
            "plain/labels/c.nii.gz"
        ));
        assert!(refused(
            "plain/images/deep/c.nii.gz",
            "plain/labels/c.nii.gz"
        ));
        assert!(refused(
            "ts/s0000/ct.nii.gz",
            "ts/s0000/segmentations/x.nii.gz"
        ));
        assert!(refused(
            "described/images/c.nii.gz",
            "described/labels/c.nii.gz"
        ));
        assert!(!refused("free/images/c.nii.gz", "free/labels/c.nii.gz"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("nn/labelsTr"), at("link")).unwrap();
            assert!(refused("nn/imagesTr/c_0000.nii.gz", "link/c.nii.gz"));
        }
    }
}
