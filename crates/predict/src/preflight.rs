//! Checks before the work starts: writable folders, temporary files of killed runs, free disk space.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ctseg_base::atomic_file::{parent_of, temporary_file};
use ctseg_base::progress::Observer;
use ctseg_base::temp_files::remove_stale_temp_files;
use ctseg_base::text::bytes::decimal;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::inference::stage::check_extent;
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::probabilities::ProbabilityKind;
use ctseg_core::outputs::sidecar::sidecar_path;
use ctseg_image::formats::{case_file, read_header};

/// DEFLATE expands data at most 1032 times: a header that declares more voxels is wrong.
const MAX_EXPANSION: u64 = 1032;

/// Bytes per case for the sidecar and the file system's overhead.
const OVERHEAD_BYTES: u64 = 32 << 10;

/// Creates the output folders and checks that they are writable. Skips refused cases and links.
///
/// # Errors
/// A folder cannot be created or is not writable.
pub(super) fn output_folders(folder: &Path, cases: &[PredictCase]) -> Result<Vec<PathBuf>> {
    let outputs = cases.iter().filter(|case| case.refused.is_none());
    let outputs: Vec<&Path> = outputs.map(|case| case.output.as_path()).collect();
    let mut folders = BTreeSet::from([folder.to_path_buf()]);
    folders.extend(outputs.iter().map(|output| parent_of(output).to_path_buf()));
    for folder in &folders {
        drop(temporary_file(folder)?);
    }
    // Folders of masks.
    let own = outputs.iter().map(|output| case_file(output, ""));
    folders.extend(own.filter(|own| own.is_dir() && !own.is_symlink()));
    Ok(folders.into_iter().collect())
}

/// Removes temporary files of killed runs.
pub(super) fn clean(folders: &[PathBuf], observer: &dyn Observer) -> Result<()> {
    let mut removed = 0;
    for folder in folders {
        removed += remove_stale_temp_files(folder)?;
    }
    if removed > 0 {
        observer.info(&format!(
            "removed {} of a killed run",
            counted(removed, "temporary file")
        ));
    }
    Ok(())
}

/// The files that each case writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Results {
    /// Whether label maps have 16 bits.
    pub(super) wide: bool,
    /// Whether there is a mask per structure.
    pub(super) split: bool,
    /// Format of the probabilities, and number of structures.
    pub(super) probabilities: Option<(ProbabilityKind, usize)>,
    /// Whether there is an entropy map.
    pub(super) entropy: bool,
}

/// Refuses a batch whose results will not fit on the file system, estimated from sizes and headers of the volumes.
///
/// # Errors
/// Less free space than the missing results will take.
pub(super) fn check(folder: &Path, cases: &[PredictCase], results: &Results) -> Result<()> {
    // File systems that do not report their free space are not checked.
    let Ok(stat) = rustix::fs::statvfs(folder) else {
        return Ok(());
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    check_space(folder, free, cases, results)
}

/// [`check`] with `free` bytes on the file system.
fn check_space(folder: &Path, free: u64, cases: &[PredictCase], results: &Results) -> Result<()> {
    let missing = cases
        .iter()
        .filter(|case| !sidecar_path(&case.output).exists());
    let missing: Vec<&PredictCase> = missing.collect();
    let maps = missing.iter().map(|case| expected_bytes(case, results));
    let needed = maps
        .sum::<u64>()
        .saturating_add(map_bytes(&missing, results));
    if needed <= free {
        return Ok(());
    }
    Err(Error::file(
        folder,
        format!(
            "too little disk space: the results need about {}, and {} are free; free some space or choose another -o",
            decimal(needed),
            decimal(free)
        ),
    ))
}

/// Bytes of a file on disk: a sparse file declares more, and its case must not stop the others.
fn stored_bytes(path: &Path) -> u64 {
    let stored = |metadata: std::fs::Metadata| metadata.len().min(metadata.blocks() * 512);
    std::fs::metadata(path).map_or(0, stored)
}

/// Minimum size of a case's files, from the size of its volume: gzip halves 16-bit CT and compresses label maps to
/// about a hundredth.
fn expected_bytes(case: &PredictCase, results: &Results) -> u64 {
    let input = stored_bytes(&case.input);
    let compressed = |path: &Path| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gz"))
    };
    let voxels = if compressed(&case.input) {
        input
    } else {
        input / 2
    };
    let plain = voxels * if results.wide { 2 } else { 1 };
    let labels = if compressed(&case.output) {
        plain / 100
    } else {
        plain
    };
    // All masks together compress like the label map.
    let masks = if results.split { plain / 100 } else { 0 };
    labels + masks + OVERHEAD_BYTES
}

/// Size of the cases' probabilities and entropy maps: 16-bit floats are not compressed; bytes compress to about a
/// twentieth, but one case at a time is on disk uncompressed. Volumes without a valid header are ignored.
fn map_bytes(cases: &[&PredictCase], results: &Results) -> u64 {
    let (mut whole, mut shrunk) = (0, u64::from(results.entropy));
    match results.probabilities {
        Some((kind @ ProbabilityKind::F16, structures)) => {
            whole = (structures * kind.bytes()) as u64
        }
        Some((kind @ ProbabilityKind::U8, structures)) => {
            shrunk += (structures * kind.bytes()) as u64
        }
        None => {}
    }
    if (whole, shrunk) == (0, 0) {
        return 0;
    }
    let voxels = cases.iter().filter_map(|case| {
        let grid = read_header(&case.input).ok()?.grid;
        check_extent(&grid).ok()?;
        let voxels = grid.voxels() as u64;
        (voxels / MAX_EXPANSION <= stored_bytes(&case.input)).then_some(voxels)
    });
    let voxels: Vec<u64> = voxels.collect();
    let most = voxels.iter().max().copied().unwrap_or(0);
    let all = voxels.into_iter().fold(0, u64::saturating_add);
    let shrunk = (shrunk.saturating_mul(all) / 20).saturating_add(shrunk.saturating_mul(most));
    whole.saturating_mul(all).saturating_add(shrunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_image::formats::{VoxelType, write_volume};
    use ctseg_image::space::{Grid, Volume};

    fn case(folder: &Path, bytes: u64, output: &str) -> PredictCase {
        let input = folder.join(format!("{bytes}.nii"));
        let file = std::fs::File::create(&input).unwrap();
        file.set_len(bytes).unwrap(); // a file with a hole takes no space
        PredictCase::new(input, folder.join(output))
    }

    const MAPS: Results = Results {
        wide: false,
        split: false,
        probabilities: None,
        entropy: false,
    };

    #[test]
    fn sizes_of_probabilities_come_from_the_headers() {
        let folder = tempfile::tempdir().unwrap();
        let grid = Grid::with_spacing([40, 30, 20], [1.0; 3]);
        let cases = ["a.nii", "b.nii"].map(|name| {
            let input = folder.path().join(name);
            let data = ndarray::Array3::zeros(grid.shape_zyx());
            write_volume(&input, &Volume { grid, data }, VoxelType::I16).unwrap();
            PredictCase::new(input.clone(), input.with_extension("nii.gz"))
        });
        let hostile = case(folder.path(), 1 << 20, "hostile.nii.gz");
        let cases = [&cases[0], &hostile, &cases[1]];
        let of = |probabilities| {
            map_bytes(
                &cases,
                &Results {
                    probabilities,
                    ..MAPS
                },
            )
        };
        assert_eq!(of(None), 0);
        assert_eq!(of(Some((ProbabilityKind::F16, 3))), 2 * 24_000 * 3 * 2);
        let one = 24_000 * 3;
        assert_eq!(of(Some((ProbabilityKind::U8, 3))), one + 2 * one / 20);
        let both = Results {
            probabilities: Some((ProbabilityKind::F16, 3)),
            entropy: true,
            ..MAPS
        };
        let entropies = 24_000 + 2 * 24_000 / 20;
        assert_eq!(map_bytes(&cases, &both), 2 * 24_000 * 3 * 2 + entropies);
    }

    #[test]
    fn label_maps_that_cannot_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let small = case(folder.path(), 1 << 20, "small.nii.gz");
        std::fs::write(&small.input, vec![1; 1 << 20]).unwrap();
        assert_eq!(
            expected_bytes(&small, &MAPS),
            (1 << 19) / 100 + OVERHEAD_BYTES
        );
        check(folder.path(), std::slice::from_ref(&small), &MAPS).unwrap();
        let large = PredictCase::new(
            folder.path().join("in.nii"),
            folder.path().join("large.nii"),
        );
        std::fs::write(&large.input, vec![1; 1 << 20]).unwrap();
        let wide = Results { wide: true, ..MAPS };
        let cases = [small, large];
        let error = check_space(folder.path(), 1 << 20, &cases, &wide).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("too little disk space") && error.contains("1.0 MB are free"),
            "{error}"
        );
        // Existing results need no more space, and files with holes are no volumes.
        std::fs::write(folder.path().join("large.json"), "{}").unwrap();
        let hostile = case(folder.path(), 1 << 42, "hostile.nii");
        let [small, large] = cases;
        check_space(folder.path(), 1 << 20, &[small, large, hostile], &wide).unwrap();
    }

    #[test]
    fn every_output_folder_must_be_writable() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut bad = case(folder.path(), 1, "x.nii");
        bad.output = file.join("x.nii");
        let error = output_folders(folder.path(), &[bad])
            .unwrap_err()
            .to_string();
        assert!(error.contains("is a file"), "{error}");
        let mut good = case(folder.path(), 1, "x.nii");
        good.output = folder.path().join("deep/er/x.nii");
        std::fs::create_dir_all(folder.path().join("deep/er/x")).unwrap();
        let folders = output_folders(folder.path(), std::slice::from_ref(&good)).unwrap();
        assert_eq!(folders.len(), 3, "{folders:?}");
        // Links are not followed.
        std::os::unix::fs::symlink("deep", folder.path().join("linked")).unwrap();
        let linked = PredictCase::new(good.input.clone(), folder.path().join("linked.nii"));
        good.output = folder.path().join("linked/new/x.nii");
        good.refused = Some("its folder is a link".to_owned());
        let folders = output_folders(folder.path(), &[good, linked]).unwrap();
        assert_eq!(folders, [folder.path()]);
        assert!(!folder.path().join("deep/new").exists());
    }
}
