//! Files of other projects (`tests/data/real`), compared with what nibabel and SimpleITK read from them
//! (`scripts/golden/make_real.py`).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use ctseg_base::hash::file_sha256;
use ctseg_image::nifti::{read_channels, read_header, read_volume};
use ctseg_image::space::Grid;

#[derive(Deserialize)]
struct Case {
    file: PathBuf,
    nibabel: Nibabel,
    /// `None` for images that are not 3-D.
    itk: Option<Itk>,
}

#[derive(Deserialize)]
struct Nibabel {
    error: Option<String>,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    shape: Vec<usize>,
    #[serde(default)]
    affine: Vec<f64>,
    /// Of the voxels as float32; `None` for colours and complex numbers.
    sha256: Option<String>,
}

#[derive(Deserialize)]
struct Itk {
    error: Option<String>,
    #[serde(default)]
    affine: Vec<f64>,
}

impl Nibabel {
    /// Whether it is a single file with one or more volumes of real numbers.
    fn is_numbers(&self) -> bool {
        let is_one_file = ["Nifti1Image", "Nifti2Image"].contains(&self.kind.as_str());
        self.error.is_none() && self.sha256.is_some() && is_one_file
    }

    fn volumes(&self) -> usize {
        self.shape.iter().skip(3).product()
    }

    fn grid(&self) -> Grid {
        Grid {
            shape: std::array::from_fn(|axis| self.shape.get(axis).copied().unwrap_or(1)),
            affine: rows(&self.affine),
        }
    }
}

fn rows(affine: &[f64]) -> [[f64; 4]; 3] {
    std::array::from_fn(|row| std::array::from_fn(|col| affine[4 * row + col]))
}

fn cases() -> Vec<Case> {
    let golden = include_str!("../../../../tests/golden/real.json");
    let cases: Vec<Case> = serde_json::from_str(golden).unwrap();
    assert!(cases.len() > 90);
    cases
}

fn file(case: &Case) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/real");
    data.join(&case.file)
}

/// SHA-256 of the voxels in file order, with NaN normalised.
fn sha256_of(voxels: &ndarray::Array3<f32>) -> String {
    let bytes = voxels.iter().flat_map(|value| {
        let value = if value.is_nan() {
            f32::from_bits(0x7fc0_0000)
        } else {
            *value
        };
        value.to_le_bytes()
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("voxels");
    std::fs::write(&path, bytes.collect::<Vec<u8>>()).unwrap();
    file_sha256(&path).unwrap()
}

#[test]
fn real_files_are_read_as_by_nibabel() {
    let mut read = 0;
    for case in cases() {
        let (path, expected) = (file(&case), &case.nibabel);
        if !expected.is_numbers() || expected.volumes() > 1 {
            continue;
        }
        let image = read_volume(&path).unwrap();
        let grid = expected.grid();
        assert_eq!(image.volume.grid.shape, grid.shape, "{path:?}");
        let pairs = image.volume.grid.affine.iter().flatten();
        let pairs = pairs.zip(grid.affine.iter().flatten());
        // A quaternion's square root may differ in its last bit.
        assert!(
            pairs.into_iter().all(|(a, b)| (a - b).abs() <= 1e-11),
            "{path:?}"
        );
        let sha256 = sha256_of(&image.volume.data);
        assert_eq!(Some(&sha256), expected.sha256.as_ref(), "{path:?}");
        read += 1;
    }
    assert_eq!(read, 84);
}

#[test]
fn other_files_are_refused_by_name() {
    for case in cases() {
        let (path, expected) = (file(&case), &case.nibabel);
        if expected.is_numbers() && expected.volumes() <= 1 {
            continue;
        }
        let error = read_volume(&path).unwrap_err().to_string();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
        if expected.is_numbers() {
            assert!(
                error.contains(&format!("holds {} volumes", expected.volumes())),
                "{error}"
            );
            let (header, channels) = read_channels(&path).unwrap();
            assert_eq!(
                (header.grid(), channels),
                (expected.grid(), expected.volumes())
            );
        }
    }
}

#[test]
fn differences_from_itk_give_a_warning() {
    let (mut alike, mut warned) = (0, 0);
    for case in cases() {
        let path = file(&case);
        let (Ok(header), Some(itk)) = (read_header(&path), &case.itk) else {
            continue;
        };
        let is_alike = itk.error.is_none() && {
            let seen = Grid {
                shape: header.grid().shape,
                affine: rows(&itk.affine),
            };
            header.grid().largest_shift_voxels(&seen) <= 0.01
        };
        if is_alike {
            alike += 1;
        } else {
            warned += 1;
            assert!(!header.warnings().is_empty(), "{path:?}");
        }
    }
    assert!(alike > 70 && warned > 1, "{alike} {warned}");
}
