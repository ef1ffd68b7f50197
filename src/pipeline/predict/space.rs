//! What can be known before work begins: folders that cannot be written, leftovers of killed runs, too little space.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::arrays::nifti::case_name;
use crate::error::{Error, Result};
use crate::files::{parent_of, temporary_file};
use crate::leftovers::remove_leftovers;
use crate::pipeline::inputs::PredictCase;
use crate::pipeline::observer::Observer;
use crate::pipeline::sidecar::sidecar_path;

/// A sidecar, and what the file system adds to each file.
const BESIDE_BYTES: u64 = 32 << 10;

/// The folders that results go to, made and found to be writable.
///
/// # Errors
/// One that cannot be made or written.
pub(super) fn output_folders(folder: &Path, cases: &[PredictCase]) -> Result<Vec<PathBuf>> {
    let mut folders = BTreeSet::from([folder.to_path_buf()]);
    folders.extend(
        cases
            .iter()
            .map(|case| parent_of(&case.output).to_path_buf()),
    );
    for folder in &folders {
        drop(temporary_file(folder)?);
    }
    // Where a case has a folder of its own beside its label map.
    let own = cases.iter().filter_map(|case| {
        let own = parent_of(&case.output).join(case_name(&case.output)?);
        own.is_dir().then_some(own)
    });
    let own: Vec<PathBuf> = own.collect();
    folders.extend(own);
    Ok(folders.into_iter().collect())
}

/// Removes what killed runs left.
pub(super) fn clean(folders: &[PathBuf], observer: &dyn Observer) -> Result<()> {
    let mut removed = 0;
    for folder in folders {
        removed += remove_leftovers(folder)?;
    }
    if removed > 0 {
        observer.say(&format!(
            "removed {removed} temporary file{} that a killed run had left",
            if removed == 1 { "" } else { "s" }
        ));
    }
    Ok(())
}

/// Refuses a batch whose label maps will not fit onto the file system, as far as the lengths of the volumes tell;
/// `wide` label maps have 16 bits.
///
/// # Errors
/// Less space than the label maps that are not there yet will take.
pub(super) fn check(folder: &Path, cases: &[PredictCase], wide: bool) -> Result<()> {
    // File systems that do not tell are taken for roomy.
    let Ok(known) = rustix::fs::statvfs(folder) else {
        return Ok(());
    };
    let free = known.f_bavail.saturating_mul(known.f_frsize);
    let missing = cases
        .iter()
        .filter(|case| !sidecar_path(&case.output).exists());
    let needed: u64 = missing.map(|case| expected_bytes(case, wide)).sum();
    if needed <= free {
        return Ok(());
    }
    Err(Error::file(
        folder,
        format!(
            "too little space: the label maps will take about {}, {} are free; make room or choose another -o",
            in_mb(needed),
            in_mb(free)
        ),
    ))
}

/// What a case's files will take, at least, from the length of its volume: CT of 16 bits halves under gzip, label
/// maps shrink to about a hundredth.
fn expected_bytes(case: &PredictCase, wide: bool) -> u64 {
    let input = std::fs::metadata(&case.input).map_or(0, |metadata| metadata.len());
    let compressed = |path: &Path| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gz"))
    };
    let voxels = if compressed(&case.input) {
        input
    } else {
        input / 2
    };
    let plain = voxels * if wide { 2 } else { 1 };
    let labels = if compressed(&case.output) {
        plain / 100
    } else {
        plain
    };
    labels + BESIDE_BYTES
}

fn in_mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(folder: &Path, bytes: u64, output: &str) -> PredictCase {
        let input = folder.join(format!("{bytes}.nii"));
        let file = std::fs::File::create(&input).unwrap();
        file.set_len(bytes).unwrap(); // a file with a hole takes no space
        PredictCase {
            input,
            output: folder.join(output),
        }
    }

    #[test]
    fn label_maps_that_cannot_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let small = case(folder.path(), 1 << 20, "small.nii.gz");
        assert_eq!(
            expected_bytes(&small, false),
            (1 << 19) / 100 + BESIDE_BYTES
        );
        check(folder.path(), std::slice::from_ref(&small), false).unwrap();
        let huge = case(folder.path(), 1 << 43, "huge.nii");
        let said = check(folder.path(), &[small, huge.clone()], true).unwrap_err();
        let said = said.to_string();
        assert!(
            said.contains("too little space") && said.contains("MB are free"),
            "{said}"
        );
        // What is there already takes no more.
        std::fs::write(folder.path().join("huge.json"), "{}").unwrap();
        check(folder.path(), &[huge], true).unwrap();
    }

    #[test]
    fn every_output_folder_must_be_writable() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut bad = case(folder.path(), 1, "x.nii");
        bad.output = file.join("x.nii");
        let said = output_folders(folder.path(), &[bad])
            .unwrap_err()
            .to_string();
        assert!(said.contains("create the folder"), "{said}");
        let mut good = case(folder.path(), 1, "x.nii");
        good.output = folder.path().join("deep/er/x.nii");
        std::fs::create_dir_all(folder.path().join("deep/er/x")).unwrap();
        let folders = output_folders(folder.path(), &[good]).unwrap();
        assert_eq!(folders.len(), 3, "{folders:?}");
    }
}
