//! Multi-channel images: split for nnU-Net, joined for the Decathlon.

use ctseg_image::nifti::{check_channels, read_channels, write_joined, write_split};

use super::*;

/// Writes four-dimensional images in all storage forms, and label maps, in the Decathlon's layout.
const MAKE: &str = r#"
import json, sys
from pathlib import Path
import nibabel as nib, numpy as np
root = Path(sys.argv[1]); rng = np.random.default_rng(7)
for set in ("imagesTr", "labelsTr", "imagesTs"): (root / set).mkdir(parents=True)
affine = np.array([[-1.5, 0, 0.02, 30], [0, 0.75, 0, -12.5], [0.03, 0, 2, 7.25], [0, 0, 0, 1]])
kinds = [("a", np.int16, nib.Nifti1Image, None, "<"), ("b", np.float32, nib.Nifti1Image, None, "<"),
         ("c", np.uint8, nib.Nifti1Image, (0.5, -3), "<"), ("d", np.int32, nib.Nifti2Image, None, "<"),
         ("e", np.int16, nib.Nifti1Image, None, ">")]
training = []
for name, dtype, kind, scaling, order in kinds:
    voxels = rng.integers(0, 200, (9, 8, 7, 3)).astype(dtype)
    image = kind(voxels, affine, dtype=dtype) if order == "<" else kind(voxels, affine, nib.Nifti1Header(endianness=">"))
    image.set_data_dtype(dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    if scaling:
        image.header.set_slope_inter(*scaling)
    if name == "d":
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"from the scanner"))
    ending = ".nii" if name == "b" else ".nii.gz"
    nib.save(image, root / "imagesTr" / (name + ending))
    labels = nib.Nifti1Image(rng.integers(0, 3, (9, 8, 7)).astype(np.uint8), affine)
    labels.set_sform(affine, 1); labels.set_qform(affine, 1)
    nib.save(labels, root / "labelsTr" / (name + ".nii.gz"))
    training.append({"image": f"./imagesTr/{name}{ending}", "label": f"./labelsTr/{name}.nii.gz"})
nib.save(nib.Nifti1Image(rng.normal(size=(4, 5, 6, 3)).astype(np.float64), np.eye(4)), root / "imagesTs" / "t.nii.gz")
json.dump({"name": "Brain", "modality": {"0": "FLAIR", "1": "T1w", "2": "CT"}, "tensorImageSize": "4D",
           "reference": "made up", "release": "1.0", "labels": {"0": "background", "1": "edema", "2": "core"},
           "training": training, "test": ["./imagesTs/t.nii.gz"]}, open(root / "dataset.json", "w"))
"#;

/// Runs [`MAKE`] for `root`; false without a Python.
fn make(root: &Path) -> bool {
    let Some(python) = std::env::var_os("CTSEG_TEST_PYTHON") else {
        println!("skipped: CTSEG_TEST_PYTHON is not set to a Python with nibabel");
        return false;
    };
    let output = Command::new(python)
        .args(["-c", MAKE])
        .arg(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    true
}

#[test]
fn four_dimensional_images_are_split_and_joined() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    if !make(&at("Task01_Brain")) {
        return;
    }
    for line in [
        "Task01_Brain --to nnunet -o raw",
        "raw/Dataset001_Brain --to msd -o back",
        "back/Task01_Brain --to msd -o again",
    ] {
        convert(folder.path(), line, 0);
    }
    let raw = at("raw/Dataset001_Brain");
    let described = json(&raw.join("dataset.json"));
    assert_eq!(
        described["channel_names"],
        json!({"0": "FLAIR", "1": "T1w", "2": "CT"})
    );
    assert_eq!(
        (&described["reference"], &described["release"]),
        (&json!("made up"), &json!("1.0"))
    );
    assert_eq!(names(&raw.join("imagesTr")).len(), 15);
    assert_eq!(
        json(&at("back/Task01_Brain/dataset.json"))["tensorImageSize"],
        "4D"
    );
    let mut pairs = Vec::new();
    for case in ["a", "b", "c", "d", "e", "t"] {
        let set = if case == "t" { "imagesTs" } else { "imagesTr" };
        let ending = if case == "b" { "nii" } else { "nii.gz" };
        let source = at(&format!("Task01_Brain/{set}/{case}.{ending}"));
        let split: Vec<PathBuf> = (0..3)
            .map(|k| raw.join(format!("{set}/{case}_000{k}.nii.gz")))
            .collect();
        let joined = at(&format!("back/Task01_Brain/{set}/{case}.nii.gz"));
        pairs.push(("split", vec![source], split.clone(), json!({})));
        pairs.push(("split", vec![joined.clone()], split.clone(), json!({})));
        pairs.push(("join", split, vec![joined.clone()], json!({})));
        // Nothing to change: an identical file.
        let again = at(&format!("again/Task01_Brain/{set}/{case}.nii.gz"));
        assert_eq!(fs::read(&joined).unwrap(), fs::read(&again).unwrap());
    }
    compare(&pairs);
    nnunet_accepts(&raw);
}

/// Writes the cases x and y in `folder/Dataset005_PetCt`, with an integer and a floating-point channel each; returns
/// their channels and the data type that holds both.
fn pet_and_ct(folder: &Path) -> [(&'static str, Vec<PathBuf>, &'static str); 2] {
    let at = |name: &str| folder.join(name);
    let described = json!({"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "lesion": 1},
        "numTraining": 2, "file_ending": ".nii.gz"});
    fs::create_dir_all(at("Dataset005_PetCt")).unwrap();
    fs::write(at("Dataset005_PetCt/dataset.json"), described.to_string()).unwrap();
    let image = |case: &str, channel: usize, voxel_type: VoxelType, step: f32| {
        let path = at(&format!(
            "Dataset005_PetCt/imagesTr/{case}_000{channel}.nii.gz"
        ));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut value = -100.0;
        let data = Array3::from_shape_simple_fn(grid().shape_zyx(), || {
            value += step;
            value
        });
        write_volume(&path, &Volume { grid: grid(), data }, voxel_type).unwrap();
        path
    };
    [
        ("x", [VoxelType::I16, VoxelType::F32], "float32"),
        ("y", [VoxelType::I32, VoxelType::F32], "float64"),
    ]
    .map(|(case, types, stored)| {
        let sources = vec![image(case, 0, types[0], 3.0), image(case, 1, types[1], 0.3)];
        write_map_on(
            &at(&format!("Dataset005_PetCt/labelsTr/{case}.nii.gz")),
            grid(),
            &[1],
        );
        (case, sources, stored)
    })
}

#[test]
fn channels_of_different_types_are_joined_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let cases = pet_and_ct(folder.path());
    convert(folder.path(), "Dataset005_PetCt --to msd -o .", 0);
    let joined = |case: &str| at(&format!("Task05_PetCt/imagesTr/{case}.nii.gz"));
    let pairs: Vec<_> = cases
        .into_iter()
        .map(|(case, sources, stored)| {
            let (header, channels) = read_channels(&joined(case)).unwrap();
            assert_eq!((header.datatype_name(), channels), (stored, 2));
            ("join", sources, vec![joined(case)], json!({}))
        })
        .collect();
    compare(&pairs);
    // A missing channel and one on another grid fail only their cases.
    fs::remove_file(at("Dataset005_PetCt/imagesTr/x_0001.nii.gz")).unwrap();
    let output = convert(folder.path(), "Dataset005_PetCt --to msd --check", 3);
    assert!(
        stderr(&output).contains("x_0001.nii.gz: cannot open"),
        "{}",
        stderr(&output)
    );
    let moved = Grid::with_spacing([5, 4, 3], [1.0, 1.5, 3.0]);
    write_image_on(&at("Dataset005_PetCt/imagesTr/x_0001.nii.gz"), moved, 0.0);
    write_image_on(&at("Dataset005_PetCt/imagesTr/y_0002.nii.gz"), grid(), 0.0);
    let output = convert(folder.path(), "Dataset005_PetCt --to msd --check", 1);
    let log = stderr(&output);
    assert!(log.contains("x_0001.nii.gz: is not on the grid"), "{log}");
    assert!(
        log.contains("y_0002.nii.gz: is one channel more than the 2"),
        "{log}"
    );
}

#[test]
fn unnamed_channels_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let parts = [0, 1].map(|channel| at(&format!("part{channel}.nii.gz")));
    for (part, value) in parts.iter().zip([1.0, 2.0]) {
        write_image_on(part, grid(), value);
    }
    write_joined(&parts, &at("plain/images/p.nii.gz")).unwrap();
    write_map_on(&at("plain/labels/p.nii.gz"), grid(), &[1]);
    let output = convert(folder.path(), "plain --to nnunet -o raw", 1);
    assert!(
        stderr(&output).contains("p.nii.gz: has 2 channels; expected 1; name them with --channels"),
        "{}",
        stderr(&output)
    );
    // The run left its record, but no dataset.
    assert!(!at("raw/Dataset500_plain/dataset.json").exists());
    let line = "plain --to nnunet -o raw/Dataset501_Two --channels CT,PET";
    convert(folder.path(), line, 0);
    assert_eq!(
        names(&at("raw/Dataset501_Two/imagesTr")),
        ["p_0000.nii.gz", "p_0001.nii.gz"]
    );
    let second = read_volume(&at("raw/Dataset501_Two/imagesTr/p_0001.nii.gz")).unwrap();
    let part = read_volume(&parts[1]).unwrap();
    assert_same_volume(&second.volume, &part.volume, "the second channel");
    let line = "raw/Dataset501_Two --to msd -o t --channels CT";
    let output = convert(folder.path(), line, 2);
    assert!(
        stderr(&output).contains("1 channel name given for the 2 channels (CT, PET)"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn damaged_four_dimensional_images_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let parts = [0, 1].map(|channel| at(&format!("part{channel}.nii")));
    for (part, value) in parts.iter().zip([1.0, 2.0]) {
        write_image_on(part, grid(), value);
    }
    let (plain, gzip) = (at("whole.nii"), at("whole.nii.gz"));
    for path in [&plain, &gzip] {
        write_joined(&parts, path).unwrap();
        assert_eq!(check_channels(path).unwrap().non_finite, 0);
        let whole = fs::read(path).unwrap();
        let damaged = at(&format!(
            "damaged_{}",
            path.file_name().unwrap().to_str().unwrap()
        ));
        for end in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
            fs::write(&damaged, &whole[..end]).unwrap();
            let error = check_channels(&damaged).unwrap_err().to_string();
            assert!(
                error.contains("damaged_") && !error.contains('\n'),
                "{error}"
            );
        }
        fs::write(&damaged, [&whole[..], b"?"].concat()).unwrap();
        assert!(check_channels(&damaged).is_err());
        // Zero padding, as from tapes and object stores.
        fs::write(&damaged, [&whole[..], &[0; 64]].concat()).unwrap();
        let padding = check_channels(&damaged).unwrap().padding.unwrap();
        assert!(padding.starts_with("64 zero bytes follow"), "{padding}");
    }
    // More channels than voxels in the file, up to more than any memory holds.
    let whole = fs::read(&plain).unwrap();
    for channels in [3i16, 32_767, 0, -1] {
        let mut bytes = whole.clone();
        bytes[48..50].copy_from_slice(&channels.to_le_bytes());
        fs::write(at("claims.nii"), bytes).unwrap();
        let error = check_channels(&at("claims.nii")).unwrap_err().to_string();
        assert!(error.contains("claims.nii"), "{error}");
        assert!(write_split(&at("claims.nii"), &[at("out.nii"), at("out2.nii")]).is_err());
    }
    assert!(!at("out.nii").exists());
    // Two channels are not three.
    let error = write_split(
        &plain,
        &["a", "b", "c"].map(|name| at(&format!("{name}.nii"))),
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("has 2 channels; expected 3"),
        "{error}"
    );
}
