//! Reading NIfTI: every voxel and every affine must match nibabel.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ndarray::Array3;

use crate::golden;
use ctseg_image::nifti::{
    NiftiHeader, Version, VoxelType, read_header, read_labels, read_volume, write_volume,
};
use ctseg_image::space::{Grid, Volume};

/// Equal, or both NaN.
fn same(a: f32, b: f32) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

#[test]
fn every_golden_case_reads_as_in_nibabel() {
    let folder = tempfile::tempdir().unwrap();
    for case in golden::cases() {
        let name = &case.name;
        let image = read_volume(&case.write(folder.path()))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let grid = image.volume.grid;
        assert_eq!(grid.shape, case.shape3(), "{name}");
        assert_eq!(image.volume.data.shape(), grid.shape_zyx(), "{name}");
        for (found, expected) in grid
            .affine
            .iter()
            .flatten()
            .zip(case.affine.iter().flatten())
        {
            // nibabel converts quaternions to matrices with 80-bit floats, which near a half turn changes the 12th
            // digit; everything else is exact.
            let tolerance = if name.contains("qform") { 1e-11 } else { 0.0 };
            assert!(
                (found - expected).abs() <= tolerance,
                "{name}: {found} {expected}"
            );
        }
        assert_eq!(image.volume.data.len(), case.data.len(), "{name}");
        for (found, expected) in image.volume.data.iter().zip(&case.data) {
            assert!(same(*found, *expected as f32), "{name}: {found} {expected}");
        }
        let bad = case
            .data
            .iter()
            .filter(|v| !(**v as f32).is_finite())
            .count();
        assert_eq!(image.non_finite, bad, "{name}");
    }
}

#[test]
fn gzip_is_detected_by_content_not_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let case = golden::named("nifti1 little i2");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&case.file).unwrap();
    for (name, content, compressed) in [
        ("plain.nii.gz", case.file.clone(), false),
        ("gzip.nii", gzip.finish().unwrap(), true),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let image = read_volume(&path).unwrap();
        assert_eq!(image.header.is_compressed(), compressed, "{name}");
        assert_eq!(
            image.volume.data[[1, 0, 2]],
            case.data[3 * 2 + 2] as f32,
            "{name}"
        );
    }
}

#[test]
fn headers_match_nibabel() {
    let folder = tempfile::tempdir().unwrap();
    let header = |name: &str| read_header(&golden::named(name).write(folder.path())).unwrap();
    let one = header("nifti2 big u8");
    assert_eq!(
        (one.version(), one.datatype_name()),
        (Version::Nifti2, "uint64")
    );
    assert_eq!((one.description().as_str(), one.units()), ("golden", "mm"));
    assert_eq!((one.sform_code(), one.qform_code()), (1, 0));
    assert_eq!((one.scaling(), one.raw_bytes().len()), (None, 540));
    assert!(one.warnings().is_empty(), "{:?}", one.warnings());
    assert_eq!(
        header("slope 2.5 and -1024").scaling(),
        Some((2.5, -1024.0))
    );
    assert_eq!(header("slope nan is none").scaling(), None);
}

#[test]
fn doubtful_headers_are_read_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let warned = |name: &str, expected: &str| {
        let header = read_header(&golden::named(name).write(folder.path())).unwrap();
        let found = header.warnings();
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{name}: {found:?}"
        );
        assert!(
            found.iter().all(|line| !line.contains('\n')),
            "{name}: {found:?}"
        );
    };
    warned("nifti1 neither", "neither sform nor qform");
    warned("nifti2 sform shear", "not at right angles");
    warned("nifti1 sform before qform", "disagree");
    warned("nifti1 micron", "micron");
    warned("nifti2 metres", "lengths are in m;");
    warned("nifti1 sform code 9 is none", "sform_code 9");
    warned("bitpix wrong", "bitpix is 99");
}

#[test]
fn voxels_that_are_not_finite_are_counted_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let image = read_volume(&golden::named("float32 not finite").write(folder.path())).unwrap();
    assert_eq!(image.non_finite, 3);
    assert!(image.volume.data[[0, 0, 0]].is_nan());
    assert_eq!(image.volume.data[[0, 0, 1]], f32::INFINITY);
    assert_eq!(image.volume.data[[1, 1, 2]], f32::NEG_INFINITY);
    let warnings = image.header.warnings();
    assert!(
        warnings
            .iter()
            .any(|line| line.starts_with("3 of 12 voxels")),
        "{warnings:?}"
    );
}

#[test]
fn volumes_survive_a_round_trip_in_every_type() {
    let folder = tempfile::tempdir().unwrap();
    let (sin, cos) = 25f64.to_radians().sin_cos();
    let grid = Grid {
        shape: [5, 4, 3],
        affine: [
            [-0.75 * cos, 1.5 * sin, 0.0, 90.5],
            [-0.75 * sin, -1.5 * cos, 0.0, -20.25],
            [0.0, 0.0, 2.5, 300.0],
        ],
    };
    let data = Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| (40 * z + 8 * y + x) as f32);
    let volume = Volume { grid, data };
    for (voxel_type, name) in [
        (VoxelType::U8, "u8.nii"),
        (VoxelType::I8, "i8.nii.gz"),
        (VoxelType::U16, "u16.nii"),
        (VoxelType::I16, "i16.nii.gz"),
        (VoxelType::U32, "u32.nii"),
        (VoxelType::I32, "i32.nii"),
        (VoxelType::U64, "u64.nii"),
        (VoxelType::I64, "i64.nii"),
        (VoxelType::F32, "f32.NII.GZ"),
        (VoxelType::F64, "f64.nii"),
    ] {
        let path = folder.path().join(name);
        write_volume(&path, &volume, voxel_type).unwrap();
        let back = read_volume(&path).unwrap();
        assert_eq!(back.volume.data, volume.data, "{name}");
        assert_eq!(back.header.datatype_name(), voxel_type.name());
        assert_eq!(
            back.header.is_compressed(),
            name.to_lowercase().ends_with("gz")
        );
        assert!(back.volume.grid.same_as(&grid, 1e-4), "{name}");
        assert!(
            back.header.warnings().is_empty(),
            "{:?}",
            back.header.warnings()
        );
    }
}

#[test]
fn integers_round_to_even_and_values_out_of_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.nii");
    let with = |value: f32| {
        let mut data = Array3::zeros((1, 2, 2));
        data[[0, 1, 0]] = value;
        let grid = Grid::with_spacing([2, 2, 1], [1.0; 3]);
        write_volume(&path, &Volume { grid, data }, VoxelType::I16)
    };
    for (value, stored) in [
        (2.5, 2.0),
        (-1.5, -2.0),
        (32767.4, 32767.0),
        (-32768.4, -32768.0),
    ] {
        with(value).unwrap();
        assert_eq!(read_volume(&path).unwrap().volume.data[[0, 1, 0]], stored);
    }
    for value in [32767.5, -32769.0, f32::NAN, f32::INFINITY] {
        let error = with(value).unwrap_err().to_string();
        assert!(
            error.contains("voxel [0, 1, 0]") && error.contains("int16"),
            "{error}"
        );
    }
}

#[test]
fn a_new_headers_qform_agrees_with_its_sform() {
    // Half turns and near half turns in all 48 orientations, and oblique ones.
    let (sin, cos) = 33f64.to_radians().sin_cos();
    let start = Grid {
        shape: [6, 5, 4],
        affine: [
            [0.7 * cos, -0.8 * sin, 0.0, 1.0],
            [0.7 * sin * cos, 0.8 * cos * cos, -3.0 * sin, -2.0],
            [0.7 * sin * sin, 0.8 * cos * sin, 3.0 * cos, 3.0],
        ],
    };
    for start in [start, Grid::with_spacing([6, 5, 4], [0.7, 0.8, 3.0])] {
        for orientation in ctseg_image::space::Orientation::all() {
            let header = NiftiHeader::for_grid(&start.reoriented(orientation)).unwrap();
            assert_eq!((header.sform_code(), header.qform_code()), (1, 1));
            // The same bytes without the sform give the affine through the quaternion.
            let mut file = header.raw_bytes().to_vec();
            file[254] = 0;
            file.extend([0; 4 + 120]);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("q.nii");
            std::fs::write(&path, file).unwrap();
            let qform = read_header(&path).unwrap().grid();
            assert!(
                qform.same_as(&header.grid(), 1e-4),
                "{orientation}: {qform:?}"
            );
        }
    }
}

#[test]
fn long_axes_need_nifti_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.nii.gz");
    let grid = Grid::with_spacing([2, 1, 40_000], [1.0, 1.0, 0.1]);
    let data = Array3::from_shape_fn(grid.shape_zyx(), |(z, _, x)| (z + x) as f32);
    write_volume(
        &path,
        &Volume {
            grid,
            data: data.clone(),
        },
        VoxelType::F32,
    )
    .unwrap();
    let back = read_volume(&path).unwrap();
    assert_eq!(back.header.version(), Version::Nifti2);
    assert_eq!(back.volume.grid, grid);
    assert_eq!(back.volume.data, data);
}

#[test]
fn labels_may_be_scaled_but_must_be_integers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.nii");
    let grid = Grid::with_spacing([2, 2, 2], [1.0; 3]);
    let read = |value: f32| {
        let mut data = Array3::from_elem((2, 2, 2), 3.0);
        data[[1, 0, 1]] = value;
        write_volume(&path, &Volume { grid, data }, VoxelType::F32).unwrap();
        read_labels(&path).map(|(_, labels)| labels.data[[1, 0, 1]])
    };
    for (value, label) in [
        (0.0, 0),
        (-0.0005, 0),
        (6.9995, 7),
        (255.0, 255),
        (65535.0, 65535),
    ] {
        assert_eq!(read(value).unwrap(), label);
    }
    for value in [-1.0, 0.5, 2.99, 65536.0, -0.002, f32::NAN, f32::INFINITY] {
        let error = read(value).unwrap_err().to_string();
        assert!(
            error.contains(&format!("holds {} at voxel [1, 0, 1]", f64::from(value))),
            "{error}"
        );
    }
    let scaled = golden::named("slope 1 and -1024");
    let error = read_labels(&scaled.write(folder.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds -33792 at voxel [0, 0, 0]"), "{error}");
}

/// With CTSEG_TEST_DATA (a folder of real images) and CTSEG_TEST_PYTHON (with numpy and nibabel).
#[test]
fn real_images_read_as_in_nibabel() {
    let (Some(data), Some(python)) = (
        std::env::var_os("CTSEG_TEST_DATA"),
        std::env::var_os("CTSEG_TEST_PYTHON"),
    ) else {
        println!("skipped: CTSEG_TEST_DATA and CTSEG_TEST_PYTHON are not set");
        return;
    };
    let script =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("scripts/check_nibabel.py");
    let images = [
        "totalseg/example_ct.nii.gz",
        "totalseg/example_seg_dicom.nii.gz",
        "sarcoma/STS_003/CT_image.nii.gz",
        "headneck/images/kbp_002.nii.gz",
    ];
    for image in images {
        let path = Path::new(&data).join(image);
        let output = std::process::Command::new(&python)
            .arg(&script)
            .arg("describe")
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let expected: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = read_volume(&path).unwrap();
        assert_eq!(
            expected["shape"],
            serde_json::json!(found.volume.grid.shape),
            "{image}"
        );
        assert_eq!(expected["dtype"], found.header.datatype_name(), "{image}");
        let hash = crc(found
            .volume
            .data
            .iter()
            .flat_map(|voxel| voxel.to_le_bytes()));
        assert_eq!(expected["voxels_crc32"], hash, "{image}");
        let affine = expected["affine"].as_array().unwrap().iter();
        for (expected, found) in affine.zip(found.volume.grid.affine.iter().flatten()) {
            assert!(
                (expected.as_f64().unwrap() - found).abs() < 1e-12,
                "{image}"
            );
        }
    }
}

fn crc(bytes: impl IntoIterator<Item = u8>) -> u32 {
    let mut crc = flate2::Crc::new();
    let bytes: Vec<u8> = bytes.into_iter().collect();
    crc.update(&bytes);
    crc.sum()
}

#[test]
fn damage_in_large_gzip_data_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.nii.gz");
    let grid = Grid::with_spacing([160, 150, 110], [1.0; 3]);
    let mut noise = 7u32;
    let data = Array3::from_shape_simple_fn(grid.shape_zyx(), || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 20) as f32 - 1024.0
    });
    let volume = Volume { grid, data };
    write_volume(&path, &volume, VoxelType::I16).unwrap();
    assert!(read_volume(&path).unwrap().volume.data == volume.data);
    let whole = std::fs::read(&path).unwrap();
    let refused = |content: &[u8], cause: &str| {
        std::fs::write(&path, content).unwrap();
        let error = read_volume(&path).unwrap_err().to_string();
        assert!(
            error.contains(cause) && error.contains("large.nii.gz"),
            "{error}"
        );
    };
    refused(&whole[..whole.len() / 2], "truncated gzip data: ends after");
    refused(&whole[..whole.len() - 4], "truncated gzip data");
    let mut damaged = whole.clone();
    damaged[whole.len() - 6] ^= 1; // in the checksum
    refused(&damaged, "corrupt gzip data");
    let mut unzipped = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&whole[..]), &mut unzipped)
        .unwrap();
    unzipped.push(1);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&unzipped).unwrap();
    refused(&gzip.finish().unwrap(), "(5280352 bytes expected for");
}
