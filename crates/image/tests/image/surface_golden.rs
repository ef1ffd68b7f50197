//! Surface distances compared with google-deepmind/surface-distance and MONAI (scripts/golden/make_surface.py).

use std::path::{Path, PathBuf};

use ndarray::{Array3, Zip};
use serde::Deserialize;

use ctseg_image::metrics::overlap::Overlap;
use ctseg_image::metrics::surface::SurfaceDistances;
use ctseg_image::nifti::read_labels;

#[derive(Deserialize)]
struct Figures {
    name: String,
    spacing_mm: [f64; 3],
    hausdorff_mm: Option<f64>,
    hd95_mm: Option<f64>,
    hd50_mm: Option<f64>,
    assd_mm: Option<f64>,
    tolerances_mm: Vec<f64>,
    surface_dice: Vec<Option<f64>>,
    dice: Option<f64>,
    monai: Monai,
}

#[derive(Deserialize)]
struct Monai {
    dice: Option<f64>,
    surface_dice: Vec<Option<f64>>,
    hausdorff_mm: Option<f64>,
    hd95_mm: Option<f64>,
    assd_mm: Option<f64>,
}

#[derive(Deserialize)]
struct Small {
    shape_xyz: [usize; 3],
    prediction: String,
    reference: String,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Deserialize)]
struct Real {
    reference: (PathBuf, u16),
    prediction: (PathBuf, u16),
    moved: Option<[isize; 3]>,
    #[serde(flatten)]
    figures: Figures,
}

fn close(found: Option<f64>, wanted: Option<f64>, within: f64, what: &str) {
    let same = match (found, wanted) {
        (Some(a), Some(b)) => (a - b).abs() <= within * b.abs().max(1.0),
        (a, b) => a == b,
    };
    assert!(same, "{what}: {found:?} instead of {wanted:?}");
}

fn check(prediction: &Array3<bool>, reference: &Array3<bool>, wanted: &Figures) {
    let found = SurfaceDistances::between(prediction.view(), reference.view(), wanted.spacing_mm);
    let what = |figure: &str| format!("{}, {figure}", wanted.name);
    for (figure, found, wanted) in [
        ("Hausdorff", found.hausdorff_mm(), wanted.hausdorff_mm),
        ("HD95", found.robust_hausdorff_mm(95.0), wanted.hd95_mm),
        ("HD50", found.robust_hausdorff_mm(50.0), wanted.hd50_mm),
        ("ASSD", found.average_mm(), wanted.assd_mm),
    ] {
        close(found, wanted, 1e-9, &what(figure));
    }
    let monai = &wanted.monai;
    for (index, mm) in wanted.tolerances_mm.iter().enumerate() {
        let found = found.surface_dice(*mm);
        close(
            found,
            wanted.surface_dice[index],
            1e-9,
            &what("surface Dice"),
        );
        // Computed in f32, and undefined if a mask is empty.
        if monai.surface_dice[index].is_some() && found.is_some() {
            close(
                found,
                monai.surface_dice[index],
                1e-5,
                &what("MONAI's surface Dice"),
            );
        }
    }
    check_overlap(prediction, reference, wanted);
    // MONAI measures between edge voxels: a different definition with similar results.
    let voxel_mm = wanted
        .spacing_mm
        .map(|side| side * side)
        .iter()
        .sum::<f64>()
        .sqrt();
    for (figure, found, monai, steps) in [
        ("Hausdorff", found.hausdorff_mm(), monai.hausdorff_mm, 1.0),
        ("HD95", found.robust_hausdorff_mm(95.0), monai.hd95_mm, 1.0),
        ("ASSD", found.average_mm(), monai.assd_mm, 0.5),
    ] {
        if let (Some(found), Some(monai)) = (found, monai) {
            let difference = (found - monai).abs();
            assert!(
                difference <= steps * voxel_mm,
                "{}: {found} {monai}",
                what(figure)
            );
        }
    }
}

fn check_overlap(prediction: &Array3<bool>, reference: &Array3<bool>, wanted: &Figures) {
    let mut overlap = Overlap::default();
    Zip::from(prediction)
        .and(reference)
        .for_each(|p, r| match (p, r) {
            (true, true) => overlap.true_positive += 1,
            (true, false) => overlap.false_positive += 1,
            (false, true) => overlap.false_negative += 1,
            (false, false) => overlap.true_negative += 1,
        });
    close(
        overlap.dice(),
        wanted.dice,
        1e-12,
        &format!("{}, Dice", wanted.name),
    );
    // MONAI's Dice is undefined if the reference is empty; ours is 0.
    if overlap.reference_voxels() > 0 {
        close(
            overlap.dice(),
            wanted.monai.dice,
            1e-6,
            &format!("{}, MONAI's Dice", wanted.name),
        );
    }
}

#[test]
fn distances_of_small_masks_match_deepmind_and_monai() {
    let cases: Vec<Small> =
        serde_json::from_str(include_str!("../../../../tests/golden/surface/masks.json")).unwrap();
    assert!(cases.len() >= 14);
    for case in cases {
        let [x, y, z] = case.shape_xyz;
        let mask = |digits: &str| {
            let inside = digits.bytes().map(|digit| digit == b'1').collect();
            Array3::from_shape_vec((z, y, x), inside).unwrap()
        };
        check(
            &mask(&case.prediction),
            &mask(&case.reference),
            &case.figures,
        );
    }
}

/// The mask of a label in a test file.
fn mask(data: &Path, (file, label): &(PathBuf, u16)) -> Array3<bool> {
    let (_, map) = read_labels(&data.join(file)).unwrap();
    map.data.map(|found| found == label)
}

fn moved(mask: &Array3<bool>, by: [isize; 3]) -> Array3<bool> {
    let mut result = Array3::from_elem(mask.raw_dim(), false);
    for ((z, y, x), _) in mask.indexed_iter().filter(|(_, inside)| **inside) {
        let [x, y, z] =
            [(x, by[0]), (y, by[1]), (z, by[2])].map(|(at, by)| at.checked_add_signed(by));
        if let (Some(x), Some(y), Some(z)) = (x, y, z)
            && let Some(to) = result.get_mut((z, y, x))
        {
            *to = true;
        }
    }
    result
}

#[test]
fn distances_of_real_structures_match_deepmind_and_monai() {
    let Some(data) = std::env::var_os("CTSEG_TEST_DATA").map(PathBuf::from) else {
        eprintln!("skipped: CTSEG_TEST_DATA is not set");
        return;
    };
    let cases: Vec<Real> =
        serde_json::from_str(include_str!("../../../../tests/golden/surface/real.json")).unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let reference = mask(&data, &case.reference);
        let prediction = match case.moved {
            Some(by) => moved(&reference, by),
            None => mask(&data, &case.prediction),
        };
        check(&prediction, &reference, &case.figures);
    }
}
