//! `ctseg inspect` of unsupported files, multi-channel images and probabilities.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::common::{run, run_json, stderr};
use ctseg_image::nifti::{NiftiHeader, VoxelType, write_joined, write_maps, write_volume};
use ctseg_image::space::{Grid, Volume};
use ndarray::Array3;
use serde_json::{Value, json};

fn grid() -> Grid {
    Grid::with_spacing([4, 3, 2], [1.0, 2.0, 5.0])
}

fn write_image(path: &Path, value: f32) {
    let mut data = Array3::from_elem(grid().shape_zyx(), value);
    data[[0, 0, 0]] = value + 50.0;
    write_volume(path, &Volume { grid: grid(), data }, VoxelType::I16).unwrap();
}

fn inspected(folder: &Path, what: &str) -> Value {
    run_json(folder, &["inspect", what, "--json"], 0)
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";

/// Writes unsupported files and a folder in `folder`, and a volume `x.nii`; returns its bytes.
fn write_unsupported(folder: &Path) -> Vec<u8> {
    write_image(&folder.join("x.nii"), 0.0);
    let whole = fs::read(folder.join("x.nii")).unwrap();
    let mut pair = whole[..348].to_vec();
    pair[344..348].copy_from_slice(b"ni1\0");
    let dicom = [vec![0; 128], b"DICM".to_vec()].concat();
    put(folder, "x.hdr", &pair);
    put(folder, "x.img", &whole[352..]);
    put(folder, "x.nrrd", b"NRRD0004\ntype: short\n");
    put(folder, "x.mhd", b"ObjectType = Image\nNDims = 3\n");
    put(folder, "x.dcm", &dicom);
    put(folder, "lfs.nii.gz", POINTER);
    (0..5).for_each(|slice| put(folder, &format!("series/IM{slice:04}"), &dicom));
    let mut zip = zip::ZipWriter::new(fs::File::create(folder.join("s.zip")).unwrap());
    zip.start_file("x.nii", zip::write::SimpleFileOptions::default())
        .unwrap();
    zip.write_all(&whole).unwrap();
    zip.finish().unwrap();
    whole
}

#[test]
fn unsupported_files_are_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_unsupported(folder);
    for (what, expected) in [
        ("x.hdr", "x.hdr: the header of an .hdr/.img pair"),
        ("x.img", "x.img: the voxels of an .hdr/.img pair"),
        (
            "x.nrrd",
            "x.nrrd: an NRRD image; expected a NIfTI image; convert it",
        ),
        (
            "x.mhd",
            "x.mhd: a MetaImage file; expected a NIfTI image; convert it",
        ),
        (
            "x.dcm",
            "x.dcm: a DICOM file; expected a NIfTI image; convert its series to NIfTI, for example dcm2niix",
        ),
        (
            "series",
            "series: no known dataset layout and no volumes; IM0000 is a DICOM file (the first of 5 such files)",
        ),
        (
            "lfs.nii.gz",
            "a Git LFS pointer, not the file itself; expected a NIfTI image; fetch the file with 'git lfs pull'",
        ),
        (
            "s.zip",
            "s.zip: a zip archive; expected a NIfTI image; unpack it first",
        ),
    ] {
        let log = stderr(&run(folder, &["inspect", what], 1));
        assert!(log.contains(expected), "{log}");
    }
    // Weights and a dataset description that are Git LFS pointers.
    for name in ["w.safetensors", "w.pth", "d/dataset.json"] {
        put(folder, name, POINTER);
        let what = name.trim_end_matches("/dataset.json");
        let log = stderr(&run(folder, &["inspect", what], 1));
        assert!(log.contains("git lfs pull"), "{log}");
    }
}

#[test]
fn a_volume_is_recognised_by_content_and_padding_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let whole = write_unsupported(folder);
    put(folder, "a3f0ba7b052af6f1caa3", &whole);
    assert_eq!(inspected(folder, "a3f0ba7b052af6f1caa3")["kind"], "volume");
    put(folder, "padded.nii", &[&whole[..], &[0; 160]].concat());
    let padded = inspected(folder, "padded.nii");
    assert_eq!(
        padded["warnings"],
        json!(["160 zero bytes follow the voxels; ignored"])
    );
}

#[test]
fn multi_channel_images_are_shown_by_channel() {
    let folder = tempfile::tempdir().unwrap();
    let parts = ["a.nii", "b.nii"].map(|name| folder.path().join(name));
    for (part, value) in parts.iter().zip([-1000.0, 100.0]) {
        write_image(part, value);
    }
    write_joined(&parts, &folder.path().join("both.nii.gz")).unwrap();
    let found = inspected(folder.path(), "both.nii.gz");
    assert_eq!(
        (&found["kind"], &found["shape"]),
        (&json!("channels"), &json!([4, 3, 2]))
    );
    assert_eq!(found["spacing_mm"], json!([1.0, 2.0, 5.0]));
    let [first, second] = found["channels"].as_array().unwrap().as_slice() else {
        panic!("{found}");
    };
    assert_eq!(
        (&first["lowest"], &first["highest"]),
        (&json!(-1000.0), &json!(-950.0))
    );
    assert_eq!(second["mean"], json!(100.0 + 50.0 / 24.0));
    let counted: u64 = second["histogram"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(counted, 24);
    let text = run(folder.path(), &["inspect", "both.nii.gz"], 0).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("voxels (x, y, z), 2 channels\n") && text.contains("\nchannel 1 "),
        "{text}"
    );
    // A vector in the fifth dimension, as registration programs write it.
    let mut fifth = fs::read(&parts[0]).unwrap();
    fifth[40..54].copy_from_slice(&[5i16, 4, 3, 1, 1, 2, 1].map(i16::to_le_bytes).concat());
    fs::write(folder.path().join("fifth.nii"), fifth).unwrap();
    let found = inspected(folder.path(), "fifth.nii");
    assert_eq!(found["channels"].as_array().unwrap().len(), 2);
}

#[test]
fn saved_probabilities_are_shown_by_structure() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compat/out/case_4.json");
    let mut sidecar: Value = serde_json::from_slice(&fs::read(root).unwrap()).unwrap();
    sidecar["structures"] = json!({"kidney": 1, "liver": 2});
    sidecar["probability_labels"] = json!([2, 1]);
    sidecar["spacing_mm"] = json!([1.0, 2.0, 5.0]);
    fs::write(folder.path().join("case.json"), sidecar.to_string()).unwrap();
    let header = NiftiHeader::for_grid(&grid()).unwrap();
    let bytes: Vec<u8> = (0..48).map(|at| if at < 24 { 255 } else { 51 }).collect();
    let nifti = folder.path().join("case_probabilities.nii.gz");
    write_maps(&nifti, &header, 2, 1.0 / 255.0, bytes.as_slice()).unwrap();
    let mut array = b"\x93NUMPY\x01\0\x76\0".to_vec();
    array.extend(
        format!(
            "{:<117}\n",
            "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 2, 3, 4), }"
        )
        .bytes(),
    );
    // 1 and 0.2 in f16.
    array.extend((0..48).flat_map(|at| if at < 24 { [0x00, 0x3c] } else { [0x66, 0x32] }));
    fs::write(folder.path().join("case_probabilities.npy"), array).unwrap();
    for name in ["case_probabilities.nii.gz", "case_probabilities.npy"] {
        let found = inspected(folder.path(), name);
        assert_eq!(
            (&found["kind"], &found["shape"]),
            (&json!("probabilities"), &json!([4, 3, 2]))
        );
        let [liver, kidney] = found["channels"].as_array().unwrap().as_slice() else {
            panic!("{found}");
        };
        assert_eq!(
            (&liver["name"], &kidney["name"]),
            (&json!("liver"), &json!("kidney"))
        );
        let mean = |channel: &Value| channel["mean"].as_f64().unwrap();
        assert!(
            (mean(liver) - 1.0).abs() < 1e-6 && (mean(kidney) - 0.2).abs() < 1e-4,
            "{found}"
        );
        assert_eq!(
            (&liver["voxels_above_half"], &kidney["voxels_above_half"]),
            (&json!(24), &json!(0))
        );
        let text = run(folder.path(), &["inspect", name], 0).stdout;
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("mL ≥ 0.5") && text.contains("0.24"), "{text}");
    }
    // Without a sidecar the array is still shown.
    fs::remove_file(folder.path().join("case.json")).unwrap();
    let found = inspected(folder.path(), "case_probabilities.npy");
    assert_eq!(found["channels"][0]["voxels_above_half"], 24);
    assert_eq!(
        inspected(folder.path(), "case_probabilities.nii.gz")["kind"],
        "channels"
    );
}
