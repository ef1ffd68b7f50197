//! Writing label maps on exactly the source's grid, in its byte order and version.

use std::path::Path;
use std::process::Command;

use ndarray::Array3;

use crate::golden;
use ctseg_image::nifti::{
    NiftiHeader, read_header, read_labels, read_volume, write_labels, write_mask,
};
use ctseg_image::space::{Grid, LabelMap};

/// Fields that a label map does not copy from its source: first byte and length in NIfTI-1.
const CHANGED_1: [(usize, usize); 9] = [
    (40, 16),  // dim
    (56, 18),  // intent_p1-3, intent_code, datatype, bitpix
    (108, 12), // vox_offset, scl_slope, scl_inter
    (124, 8),  // cal_max, cal_min
    (140, 8),  // glmax, glmin
    (148, 80), // descrip
    (228, 24), // aux_file
    (328, 16), // intent_name
    (72, 2),   // bitpix
];

/// The same for NIfTI-2.
const CHANGED_2: [(usize, usize); 8] = [
    (12, 4),   // datatype, bitpix
    (16, 64),  // dim
    (80, 24),  // intent_p1-3
    (168, 40), // vox_offset, scl_slope, scl_inter, cal_max, cal_min
    (240, 80), // descrip
    (320, 24), // aux_file
    (504, 4),  // intent_code
    (508, 16), // intent_name
];

pub fn labels_on(grid: Grid, largest: u16) -> LabelMap {
    let mut count = 0u16;
    let data = Array3::from_shape_simple_fn(grid.shape_zyx(), || {
        count = count.wrapping_add(1);
        if count == 2 { largest } else { count % 5 }
    });
    LabelMap { grid, data }
}

#[test]
fn everything_but_the_voxels_is_copied_from_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.nii");
    for case in golden::cases() {
        let source = read_header(&case.write(folder.path())).unwrap();
        for largest in [7, 255, 256, 65535] {
            let labels = labels_on(source.grid(), largest);
            write_labels(&path, &labels, &source).unwrap();
            let (header, back) = read_labels(&path).unwrap();
            assert_eq!(back, labels, "{}", case.name);
            assert_eq!(header.version(), source.version(), "{}", case.name);
            let datatype = if largest > 255 { "uint16" } else { "uint8" };
            assert_eq!(header.datatype_name(), datatype, "{}", case.name);
            let (old, new) = (source.raw_bytes(), header.raw_bytes());
            let changed: &[_] = if old.len() == 348 {
                &CHANGED_1
            } else {
                &CHANGED_2
            };
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                let free = changed
                    .iter()
                    .any(|(start, length)| (*start..start + length).contains(&at));
                assert!(
                    free || old == new,
                    "{}: byte {at} was {old}, is {new}",
                    case.name
                );
            }
            let file = std::fs::read(&path).unwrap();
            assert_eq!(file[old.len()..old.len() + 4], [0; 4], "{}", case.name);
            let bytes = if largest > 255 { 2 } else { 1 };
            assert_eq!(file.len(), old.len() + 4 + bytes * labels.data.len());
        }
    }
}

#[test]
fn extra_dimensions_are_dropped_and_2d_stays_2d() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.nii");
    for (name, dims) in [
        ("4-D", [3, 3, 2, 2, 1, 1, 1, 1]),
        ("7-D big", [3, 3, 2, 2, 1, 1, 1, 1]),
        ("2-D neither", [2, 4, 3, 1, 1, 1, 1, 1]),
    ] {
        let source = read_header(&golden::named(name).write(folder.path())).unwrap();
        write_labels(&path, &labels_on(source.grid(), 4), &source).unwrap();
        let file = std::fs::read(&path).unwrap();
        let found: [i16; 8] = std::array::from_fn(|i| {
            let bytes = [file[40 + 2 * i], file[41 + 2 * i]];
            if file[0] == 0 {
                i16::from_be_bytes(bytes)
            } else {
                i16::from_le_bytes(bytes)
            }
        });
        assert_eq!(found, dims, "{name}");
    }
}

#[test]
fn fields_about_the_intensities_are_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let mut case = golden::named("slope 2.5 and -1024");
    let reals = |at: usize, count: usize| (at..at + 4 * count).step_by(4);
    for at in reals(56, 3).chain(reals(124, 2)).chain(reals(140, 2)) {
        case.file[at..at + 4].copy_from_slice(&9f32.to_le_bytes());
    }
    case.file[68] = 3;
    case.file[148..160].copy_from_slice(b"Jane Doe, CT");
    case.file[228..234].copy_from_slice(b"secret");
    case.file[328..334].copy_from_slice(b"secret");
    let source = read_header(&case.write(folder.path())).unwrap();
    assert_eq!(source.description(), "Jane Doe, CT");
    let path = folder.path().join("labels.nii");
    write_labels(&path, &labels_on(source.grid(), 4), &source).unwrap();
    let file = std::fs::read(&path).unwrap();
    for at in reals(56, 3).chain(reals(124, 2)).chain(reals(140, 2)) {
        assert_eq!(file[at..at + 4], [0; 4], "byte {at}");
    }
    assert_eq!(file[68..70], [0; 2]);
    assert_eq!(
        file[112..120],
        [1f32.to_le_bytes(), 0f32.to_le_bytes()].concat()
    );
    let text = String::from_utf8_lossy(&file);
    assert!(!text.contains("secret") && !text.contains("Doe"));
    assert!(
        read_header(&path)
            .unwrap()
            .description()
            .starts_with("ctseg ")
    );
}

#[test]
fn labels_off_the_source_grid_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.nii.gz");
    let source = read_header(&golden::named("nifti1 little i2").write(folder.path())).unwrap();
    let refused = |grid: Grid, name: &Path| {
        let error = write_labels(name, &labels_on(grid, 1), &source)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(name.to_str().unwrap()) && !error.contains('\n'),
            "{error}"
        );
        assert!(!name.exists());
        error
    };
    let mut turned = source.grid();
    turned.shape.swap(0, 1);
    assert!(refused(turned, &path).contains("[2, 3, 2]"));
    let mut moved = source.grid();
    moved.affine[2][3] += 0.5;
    assert!(refused(moved, &path).contains("0.500 mm off"));
    moved.affine[2][3] = f64::NAN;
    assert!(refused(moved, &path).contains("off the image"));
    assert!(refused(source.grid(), &folder.path().join("labels.mha")).contains(".nii.gz"));
    let mut labels = labels_on(source.grid(), 1);
    labels.data = Array3::zeros((2, 2, 2));
    assert!(write_labels(&path, &labels, &source).is_err());
}

#[test]
fn the_same_labels_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let grid = Grid::with_spacing([60, 50, 40], [1.0, 1.0, 2.0]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    let [a, b] = ["a.nii.gz", "b.nii.gz"].map(|name| {
        let path = folder.path().join(name);
        write_labels(&path, &labels_on(grid, 300), &header).unwrap();
        std::fs::read(path).unwrap()
    });
    assert_eq!(a, b);
    // No flags (so no file name), no time stamp, no operating system.
    assert_eq!(
        (&a[..2], a[3], &a[4..8], a[9]),
        (&[0x1f, 0x8b][..], 0, &[0; 4][..], 255)
    );
}

#[test]
fn labels_in_any_memory_layout_are_written_in_file_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.nii.gz");
    let grid = Grid::with_spacing([4, 3, 2], [1.0; 3]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    let data = Array3::from_shape_fn([4, 3, 2], |(x, y, z)| (100 * z + 10 * y + x) as u16);
    let labels = LabelMap {
        grid,
        data: data.reversed_axes(),
    };
    assert!(!labels.data.is_standard_layout());
    write_labels(&path, &labels, &header).unwrap();
    let (_, back) = read_labels(&path).unwrap();
    assert_eq!(back.data[[1, 2, 3]], 123);
    assert_eq!(back, labels);
}

#[test]
fn grids_that_cannot_be_written_are_refused() {
    let mut grid = Grid::with_spacing([4, 3, 2], [1.0; 3]);
    grid.affine[1] = grid.affine[0];
    assert!(
        NiftiHeader::for_grid(&grid)
            .unwrap_err()
            .to_string()
            .contains("singular")
    );
    let empty = Grid::with_spacing([4, 0, 2], [1.0; 3]);
    assert!(
        NiftiHeader::for_grid(&empty)
            .unwrap_err()
            .to_string()
            .contains("[4, 0, 2]")
    );
}

#[test]
fn masks_and_large_label_maps_are_written_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    // Several pieces of half a MiB: background, all structures, and part of one.
    let grid = Grid::with_spacing([200, 150, 70], [1.0; 3]);
    let header = NiftiHeader::for_grid(&grid).unwrap();
    let mut labels = labels_on(grid, 300);
    labels.data.slice_mut(ndarray::s![..40, .., ..]).fill(0);
    for name in ["labels.nii.gz", "labels.nii"] {
        let path = folder.path().join(name);
        write_labels(&path, &labels, &header).unwrap();
        assert!(read_labels(&path).unwrap().1 == labels, "{name}");
        let path = folder.path().join("mask.".to_owned() + name);
        write_mask(&path, &header, &|voxels, mask| {
            for (voxel, inside) in voxels.zip(mask) {
                *inside = u8::from(labels.data.as_slice().unwrap()[voxel] == 3);
            }
        })
        .unwrap();
        let (header, mask) = read_labels(&path).unwrap();
        assert_eq!(header.datatype_name(), "uint8");
        assert!(
            mask.data == labels.data.mapv(|label| u16::from(label == 3)),
            "{name}"
        );
    }
    // Neither the order in memory nor the number of threads changes a byte.
    let written = |labels: &LabelMap, threads: usize| {
        let path = folder.path().join("again.nii.gz");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap()
            .install(|| write_labels(&path, labels, &header))
            .unwrap();
        std::fs::read(&path).unwrap()
    };
    let turned = LabelMap {
        grid,
        data: labels
            .data
            .t()
            .as_standard_layout()
            .into_owned()
            .reversed_axes(),
    };
    assert!(!turned.data.is_standard_layout() && turned == labels);
    assert!(written(&labels, 1) == written(&turned, 3));
}

/// With CTSEG_TEST_PYTHON (an interpreter with numpy and nibabel); real images too with CTSEG_TEST_DATA.
#[test]
fn nibabel_finds_the_labels_on_the_source_grid() {
    let Some(python) = std::env::var_os("CTSEG_TEST_PYTHON") else {
        println!("skipped: CTSEG_TEST_PYTHON is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut sources = Vec::new();
    let names = [
        "nifti1 big i2",
        "nifti2 big i2",
        "nifti1 qform oblique",
        "nifti2 sform shear",
        "nifti1 neither",
        "nifti1 sform code 9 is none",
        "2-D neither",
        "slope 1 and -1024",
    ];
    for (index, name) in names.into_iter().enumerate() {
        let path = folder.path().join(format!("source{index}.nii"));
        std::fs::write(&path, golden::named(name).file).unwrap();
        sources.push(path);
    }
    match std::env::var_os("CTSEG_TEST_DATA") {
        None => println!("real images skipped: CTSEG_TEST_DATA is not set"),
        Some(data) => sources.extend(
            [
                "totalseg/example_ct.nii.gz",
                "totalseg/example_ct_sm.nii.gz",
                "sarcoma/STS_003/CT_image.nii.gz",
                "headneck/images/kbp_002.nii.gz",
            ]
            .map(|image| Path::new(&data).join(image)),
        ),
    }
    for source in sources {
        check_with_nibabel(&python, &source, folder.path());
    }
}

/// Thresholds the image into labels and lets `scripts/check_nibabel.py` do the same and compare.
fn check_with_nibabel(python: &std::ffi::OsStr, source: &Path, folder: &Path) {
    let image = read_volume(source).unwrap();
    let above = |value: f32| {
        [-200.0, 0.0, 200.0]
            .iter()
            .filter(|limit| value > **limit)
            .count()
    };
    let labels = LabelMap {
        grid: image.volume.grid,
        data: image.volume.data.mapv(|value| above(value) as u16),
    };
    let path = folder.join("labels.nii.gz");
    write_labels(&path, &labels, &image.header).unwrap();
    let output = Command::new(python)
        .arg(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
                .join("scripts/check_nibabel.py"),
        )
        .arg("labels")
        .args([source, &path])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", source.display());
}
