//! Label maps with thousands of labels, scattered over the volume.

use std::collections::BTreeMap;

use ndarray::Array3;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::common::ctseg;

/// Random labels in a cube of `side`³ voxels.
fn random_labels(side: usize, labels: u16, seed: u64) -> Array3<u16> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    Array3::from_shape_simple_fn((side, side, side), || random.random_range(0..=labels))
}

fn write_map(path: &Path, data: Array3<u16>) {
    let (z, y, x) = data.dim();
    let grid = Grid::with_spacing([x, y, z], [1.0, 0.5, 2.0]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    write_labels(path, &LabelMap { grid, data }, &header).unwrap();
}

/// The rows of `metrics.csv` in `folder` by structure.
fn rows(folder: &Path) -> BTreeMap<String, csv::StringRecord> {
    let mut table = csv::Reader::from_path(folder.join("metrics.csv")).unwrap();
    let rows = table.records().map(Result::unwrap);
    rows.map(|row| (row[1].to_owned(), row)).collect()
}

#[test]
fn many_labels_score_as_each_label_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (prediction, reference) = (random_labels(14, 300, 1), random_labels(14, 300, 2));
    let alone = |map: &Array3<u16>, label: u16| map.mapv(|at| if at == label { at } else { 0 });
    write_map(&at("pred/all.nii"), prediction.clone());
    write_map(&at("ref/all.nii"), reference.clone());
    run(folder.path(), &["evaluate", "pred", "ref", "-o", "all"], 0);
    let all = rows(&at("all"));
    assert_eq!(all.len(), 300);
    for label in [1, 77, 300] {
        write_map(&at("one/all.nii"), alone(&prediction, label));
        write_map(&at("true/all.nii"), alone(&reference, label));
        run(folder.path(), &["evaluate", "one", "true", "-o", "own"], 0);
        let name = format!("structure_{label}");
        assert_eq!(all[&name], rows(&at("own"))[&name]);
    }
}

#[test]
#[allow(clippy::zombie_processes)] // wait4 waits for them
fn thousands_of_labels_take_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let map = random_labels(32, 4000, 3);
    write_map(&folder.path().join("pred/a.nii"), map.clone());
    write_map(&folder.path().join("ref/a.nii"), map);
    let peak_mib = |arguments: &[&str]| {
        let mut command = ctseg(folder.path(), arguments);
        let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        let mut status = 0;
        // SAFETY: rusage is plain numbers, valid as zeros; the process is our child, and only waited for here.
        let usage = unsafe {
            let mut usage = std::mem::zeroed::<libc::rusage>();
            libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage);
            usage
        };
        assert_eq!(status, 0);
        usage.ru_maxrss as u64 >> 10 // MiB
    };
    let (none, used) = (
        peak_mib(&["--version"]),
        peak_mib(&["evaluate", "pred", "ref"]),
    );
    assert!(used < none + 128, "{used} MiB, {none} MiB for --version");
    let printed = peak_mib(&["evaluate", "pred", "ref", "--json"]);
    assert!(printed < none + 128, "{printed} MiB with --json");
    let rows = rows(&folder.path().join("pred"));
    assert!(rows.len() > 3900, "{}", rows.len());
    assert!(rows.values().all(|row| &row[3] == "1.000000"));
}
