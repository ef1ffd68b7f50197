//! Label maps of thousands of labels, all over the volume.

use std::collections::BTreeMap;

use ndarray::Array3;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::common::ctseg;

/// Voxels on each side.
fn labels_all_over(side: usize, labels: u16, seed: u64) -> Array3<u16> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    Array3::from_shape_simple_fn((side, side, side), || random.random_range(0..=labels))
}

fn written(path: &Path, data: Array3<u16>) {
    let (z, y, x) = data.dim();
    let grid = Grid::with_spacing([x, y, z], [1.0, 0.5, 2.0]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    write_labels(path, &LabelMap { grid, data }, &header).unwrap();
}

/// The rows of `metrics.csv` in `folder` by their structures.
fn rows(folder: &Path) -> BTreeMap<String, csv::StringRecord> {
    let mut table = csv::Reader::from_path(folder.join("metrics.csv")).unwrap();
    let rows = table.records().map(Result::unwrap);
    rows.map(|row| (row[1].to_owned(), row)).collect()
}

#[test]
fn labels_all_over_a_volume_are_measured_as_each_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (prediction, reference) = (labels_all_over(14, 300, 1), labels_all_over(14, 300, 2));
    let alone = |map: &Array3<u16>, label: u16| map.mapv(|at| if at == label { at } else { 0 });
    written(&at("pred/all.nii"), prediction.clone());
    written(&at("ref/all.nii"), reference.clone());
    run(folder.path(), &["evaluate", "pred", "ref", "-o", "all"], 0);
    let all = rows(&at("all"));
    assert_eq!(all.len(), 300);
    for label in [1, 77, 300] {
        written(&at("one/all.nii"), alone(&prediction, label));
        written(&at("true/all.nii"), alone(&reference, label));
        run(folder.path(), &["evaluate", "one", "true", "-o", "own"], 0);
        let name = format!("structure_{label}");
        assert_eq!(all[&name], rows(&at("own"))[&name]);
    }
}

#[test]
#[allow(clippy::zombie_processes)] // wait4 waits for them
fn thousands_of_labels_take_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let map = labels_all_over(32, 4000, 3);
    written(&folder.path().join("pred/a.nii"), map.clone());
    written(&folder.path().join("ref/a.nii"), map);
    let most = |arguments: &[&str]| {
        let mut command = ctseg(folder.path(), arguments);
        let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        let mut status = 0;
        // SAFETY: plain numbers, for which zero is a value; the process is our own child, and waited for here alone.
        let usage = unsafe {
            let mut usage = std::mem::zeroed::<libc::rusage>();
            libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage);
            usage
        };
        assert_eq!(status, 0);
        usage.ru_maxrss as u64 >> 10 // MiB
    };
    let (none, used) = (most(&["--version"]), most(&["evaluate", "pred", "ref"]));
    assert!(
        used < none + 128,
        "{used} MiB, {none} before anything is done"
    );
    let printed = most(&["evaluate", "pred", "ref", "--json"]);
    assert!(printed < none + 128, "{printed} MiB with --json");
    let rows = rows(&folder.path().join("pred"));
    assert!(rows.len() > 3900, "{}", rows.len());
    assert!(rows.values().all(|row| &row[3] == "1.000000"));
}
