//! What can be known before work begins: folders that cannot be written, leftovers of killed runs, too little space.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ctseg_base::atomic_file::{parent_of, temporary_file};
use ctseg_base::progress::Observer;
use ctseg_base::temp_files::remove_leftovers;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::inference::stage::check_extent;
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::probabilities::ProbabilityKind;
use ctseg_core::outputs::sidecar::sidecar_path;
use ctseg_image::formats::{case_file, read_header};

/// A sidecar, and what the file system adds to each file.
const BESIDE_BYTES: u64 = 32 << 10;

/// The folders that results go to, made and found to be writable; none for cases that are refused, and none that a link
/// leads to.
///
/// # Errors
/// One that cannot be made or written.
pub(super) fn output_folders(folder: &Path, cases: &[PredictCase]) -> Result<Vec<PathBuf>> {
    let outputs = cases.iter().filter(|case| case.refused.is_none());
    let outputs: Vec<&Path> = outputs.map(|case| case.output.as_path()).collect();
    let mut folders = BTreeSet::from([folder.to_path_buf()]);
    folders.extend(outputs.iter().map(|output| parent_of(output).to_path_buf()));
    for folder in &folders {
        drop(temporary_file(folder)?);
    }
    // Where a case has a folder of its own beside its label map.
    let own = outputs.iter().map(|output| case_file(output, ""));
    folders.extend(own.filter(|own| own.is_dir() && !own.is_symlink()));
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
            "removed {} that a killed run had left",
            counted(removed, "temporary file")
        ));
    }
    Ok(())
}

/// What each case leaves on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Results {
    /// Label maps have 16 bits.
    pub(super) wide: bool,
    /// Whether there is a mask per structure beside the label map.
    pub(super) split: bool,
    /// Probabilities, of so many structures.
    pub(super) probabilities: Option<(ProbabilityKind, usize)>,
    /// Whether there is a map of entropies.
    pub(super) entropy: bool,
}

/// Refuses a batch whose results will not fit onto the file system, as far as lengths and headers of the volumes tell.
///
/// # Errors
/// Less space than the results that are not there yet will take.
pub(super) fn check(folder: &Path, cases: &[PredictCase], results: &Results) -> Result<()> {
    // File systems that do not tell are taken for roomy.
    let Ok(known) = rustix::fs::statvfs(folder) else {
        return Ok(());
    };
    let free = known.f_bavail.saturating_mul(known.f_frsize);
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
            "too little space: the results will take about {}, {} are free; make room or choose another -o",
            in_mb(needed),
            in_mb(free)
        ),
    ))
}

/// What a case's files will take, at least, from the length of its volume: CT of 16 bits halves under gzip, label
/// maps shrink to about a hundredth.
fn expected_bytes(case: &PredictCase, results: &Results) -> u64 {
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
    let plain = voxels * if results.wide { 2 } else { 1 };
    let labels = if compressed(&case.output) {
        plain / 100
    } else {
        plain
    };
    // Masks say together what the label map says.
    let masks = if results.split { plain / 100 } else { 0 };
    labels + masks + BESIDE_BYTES
}

/// What the cases' probabilities and entropies take: as 16-bit reals all of them; in steps of a byte they shrink to
/// about a twentieth, but one case at a time lies there in full. Volumes without a usable header fail on their own.
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
        Some(grid.voxels() as u64)
    });
    let voxels: Vec<u64> = voxels.collect();
    let most = voxels.iter().max().copied().unwrap_or(0);
    let all = voxels.into_iter().fold(0, u64::saturating_add);
    let shrunk = (shrunk.saturating_mul(all) / 20).saturating_add(shrunk.saturating_mul(most));
    whole.saturating_mul(all).saturating_add(shrunk)
}

fn in_mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
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
    fn probabilities_count_as_their_headers_tell() {
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
        assert_eq!(
            expected_bytes(&small, &MAPS),
            (1 << 19) / 100 + BESIDE_BYTES
        );
        check(folder.path(), std::slice::from_ref(&small), &MAPS).unwrap();
        let huge = case(folder.path(), 1 << 43, "huge.nii");
        let wide = Results { wide: true, ..MAPS };
        let said = check(folder.path(), &[small, huge.clone()], &wide).unwrap_err();
        let said = said.to_string();
        assert!(
            said.contains("too little space") && said.contains("MB are free"),
            "{said}"
        );
        // What is there already takes no more.
        std::fs::write(folder.path().join("huge.json"), "{}").unwrap();
        check(folder.path(), &[huge], &wide).unwrap();
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
        assert!(said.contains("is a file"), "{said}");
        let mut good = case(folder.path(), 1, "x.nii");
        good.output = folder.path().join("deep/er/x.nii");
        std::fs::create_dir_all(folder.path().join("deep/er/x")).unwrap();
        let folders = output_folders(folder.path(), std::slice::from_ref(&good)).unwrap();
        assert_eq!(folders.len(), 3, "{folders:?}");
        // Nothing is made, and nothing cleaned up, where a link leads.
        std::os::unix::fs::symlink("deep", folder.path().join("linked")).unwrap();
        let linked = PredictCase::new(good.input.clone(), folder.path().join("linked.nii"));
        good.output = folder.path().join("linked/new/x.nii");
        good.refused = Some("its folder is a link".to_owned());
        let folders = output_folders(folder.path(), &[good, linked]).unwrap();
        assert_eq!(folders, [folder.path()]);
        assert!(!folder.path().join("deep/new").exists());
    }
}
