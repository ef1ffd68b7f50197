//! Headers that contradict themselves: which fields are used, and which warnings are given.

use std::path::{Path, PathBuf};

use crate::golden;
use ctseg_image::nifti::{NiftiHeader, read_header};
use ctseg_image::space::Grid;

/// A golden file with other bytes at these places.
fn patched(folder: &Path, name: &str, patches: &[(usize, Vec<u8>)]) -> PathBuf {
    let mut case = golden::named(name);
    for (at, bytes) in patches {
        case.file[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    case.write(folder)
}

fn reals(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn a_valid_qform_replaces_an_unusable_sform() {
    let folder = tempfile::tempdir().unwrap();
    let name = "nifti1 sform before qform";
    let without = patched(folder.path(), name, &[(254, vec![0, 0])]);
    let qform = read_header(&without).unwrap().grid();
    let parallel = [[0.8f32, 0.1, 0.0, 1.0]; 3].concat();
    for (sform, expected) in [
        (
            vec![0.0; 12],
            "its sform is all zeros although sform_code is set",
        ),
        (parallel, "its sform is singular"),
        (
            vec![f32::NAN; 12],
            "its sform holds values that are not finite",
        ),
    ] {
        let path = patched(folder.path(), name, &[(280, reals(&sform))]);
        let header = read_header(&path).unwrap();
        assert_eq!(header.grid(), qform);
        let [warning] = header.warnings() else {
            panic!("{:?}", header.warnings());
        };
        assert!(
            warning.contains(expected) && warning.contains("the qform is used"),
            "{warning}"
        );
    }
    // If neither is usable, the error is about the sform, which the code selects.
    let both = [(280, reals(&[0.0; 12])), (256, reals(&[3.0, 0.0, 0.0]))];
    let error = read_header(&patched(folder.path(), name, &both)).unwrap_err();
    assert!(
        error.to_string().contains("from its sform is singular"),
        "{error}"
    );
}

#[test]
fn a_pixdim_that_contradicts_the_affine_is_ignored_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let header = |sizes: [f32; 3]| {
        let path = patched(folder.path(), "nifti1 little i2", &[(80, reals(&sizes))]);
        read_header(&path).unwrap()
    };
    // Voxels of 0.8 × 0.9 × 2.5 mm.
    let mm3 = header([0.8, 0.9, 2.5]).voxel_mm3();
    assert_eq!(mm3, f64::from(0.8f32 * 0.9 * 2.5));
    for (sizes, expected) in [
        (
            [1.0, 1.0, 1.0],
            "pixdim gives voxels of 1 × 1 × 1 mm, its sform 0.8 × 0.9 × 2.5 mm",
        ),
        ([0.0, 0.0, 0.0], "pixdim gives voxels of 0 × 0 × 0 mm"),
        (
            [f32::NAN, 0.9, 2.5],
            "pixdim gives voxels of NaN × 0.9 × 2.5 mm",
        ),
        ([0.8, 0.9, 5.0], "pixdim gives voxels of 0.8 × 0.9 × 5 mm"),
        (
            [0.8, 0.9, 2.51],
            "pixdim gives voxels of 0.8 × 0.9 × 2.51 mm",
        ),
    ] {
        let header = header(sizes);
        assert!(
            (header.voxel_mm3() - mm3).abs() < 1e-6,
            "{}",
            header.voxel_mm3()
        );
        let warnings = header.warnings();
        assert!(
            warnings.iter().any(|line| line.contains(expected)),
            "{warnings:?}"
        );
    }
    // Rounded, or with a sign.
    for sizes in [[0.8, 0.9, 2.5005], [-0.8, 0.9, -2.5]] {
        let header = header(sizes);
        assert!(header.warnings().is_empty(), "{:?}", header.warnings());
        let [x, y, z] = sizes.map(f32::abs);
        assert_eq!(header.voxel_mm3(), f64::from(x * y * z));
    }
    // Without an affine, pixdim is all there is.
    let none = [(254, vec![0, 0]), (80, reals(&[0.0, 0.9, 2.5]))];
    let header = read_header(&patched(folder.path(), "nifti1 little i2", &none)).unwrap();
    let expected = "pixdim gives voxels of 0 × 0.9 × 2.5 mm; read as 1 × 0.9 × 2.5 mm";
    assert!(
        header.warnings().iter().any(|line| line.contains(expected)),
        "{:?}",
        header.warnings()
    );
}

#[test]
fn implausible_sizes_give_a_warning() {
    let warnings = |shape: [usize; 3], spacing_mm: [f64; 3]| {
        let header = NiftiHeader::for_grid(&Grid::with_spacing(shape, spacing_mm)).unwrap();
        header.warnings().join("; ")
    };
    // Metres, and micrometres.
    for (shape, spacing_mm) in [
        ([512, 512, 100], [0.0008, 0.0008, 0.003]),
        ([512, 512, 100], [800.0, 800.0, 3000.0]),
    ] {
        let warning = warnings(shape, spacing_mm);
        assert!(warning.contains("implausible for a patient"), "{warning}");
    }
    assert_eq!(warnings([512, 512, 800], [0.97, 0.97, 2.5]), "");
    assert_eq!(warnings([256, 256, 1], [0.05, 0.05, 0.05]), "");
}

// SimpleITK 2.5.7 reads an image whose axes have a cosine of 9e-5, and refuses one of 1.1e-4; with a qform it takes
// that.
#[test]
fn axes_that_itk_refuses_give_a_warning() {
    let header = |cosine: f64| {
        let mut grid = Grid::with_spacing([12, 11, 10], [0.8, 0.9, 2.5]);
        grid.affine[0][1] = 0.9 * cosine;
        NiftiHeader::for_grid(&grid).unwrap()
    };
    assert!(header(9e-5).warnings().is_empty());
    let skewed = header(1.1e-4);
    let [warning] = skewed.warnings() else {
        panic!("{:?}", skewed.warnings());
    };
    assert!(
        warning.contains("off by 0.006°") && warning.contains("refuse the file"),
        "{warning}"
    );
    let folder = tempfile::tempdir().unwrap();
    let mut file = skewed.raw_bytes().to_vec();
    file[252] = 1; // a qform without rotation
    file.extend(vec![0; 4 + 12 * 11 * 10]);
    let path = folder.path().join("both.nii");
    std::fs::write(&path, file).unwrap();
    let both = read_header(&path).unwrap();
    assert!(
        both.warnings()[0].contains("use its qform instead"),
        "{:?}",
        both.warnings()
    );
}
