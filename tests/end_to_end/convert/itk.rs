//! Datasets that nnU-Net reads through ITK: no NIfTI-2, and the Decathlon's layout as nnU-Net's converter expects it.

use super::*;

/// Rewrites the NIfTI-1 file at `path` as NIfTI-2, with 4 + `extension` bytes before the voxels.
fn as_nifti2(path: &Path, extension: usize) {
    let mut first = Vec::new();
    let file = fs::File::open(path).unwrap();
    let mut file = flate2::read::GzDecoder::new(file);
    std::io::Read::read_to_end(&mut file, &mut first).unwrap();
    let mut second = vec![0u8; 544 + extension];
    let mut put = |at: usize, bytes: &[u8]| second[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &540i32.to_le_bytes());
    put(4, b"n+2\0\r\n\x1a\n");
    put(12, &first[70..74]);
    put(168, &(544 + extension as i64).to_le_bytes());
    put(344, &i32::from(first[252]).to_le_bytes());
    put(348, &i32::from(first[254]).to_le_bytes());
    put(500, &i32::from(first[123]).to_le_bytes());
    for index in 0..8 {
        let at = 40 + 2 * index;
        let dim = i16::from_le_bytes(first[at..at + 2].try_into().unwrap());
        put(16 + 8 * index, &i64::from(dim).to_le_bytes());
    }
    for (from, to, count) in [(76, 104, 8), (112, 176, 2), (256, 352, 6), (280, 400, 12)] {
        for index in 0..count {
            let at = from + 4 * index;
            let real = f32::from_le_bytes(first[at..at + 4].try_into().unwrap());
            put(to + 8 * index, &f64::from(real).to_le_bytes());
        }
    }
    if extension > 0 {
        put(540, &[1]);
        put(544, &(extension as i32).to_le_bytes());
        put(548, &6i32.to_le_bytes());
        put(552, b"from the scanner");
    }
    second.extend(&first[352..]);
    let file = fs::File::create(path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(&second).unwrap();
    gzip.finish().unwrap();
}

/// The first bytes of a file, decompressed.
fn start(path: &Path, bytes: usize) -> Vec<u8> {
    let mut start = vec![0; bytes];
    let mut file = flate2::read::GzDecoder::new(fs::File::open(path).unwrap());
    std::io::Read::read_exact(&mut file, &mut start).unwrap();
    start
}

#[test]
fn nifti2_is_converted_to_nifti1_for_nnunet_and_the_decathlon() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_dataset(&at("my_data"), &[("a", &[1]), ("b", &[1])]);
    let image = at("my_data/images/b.nii.gz");
    let expected = read_volume(&image).unwrap().volume;
    // Extensions of any length are copied: this one is longer than the limit for label names.
    let extension = 17 << 20;
    as_nifti2(&image, extension);
    as_nifti2(&at("my_data/labels/b.nii.gz"), 0);
    for (line, image, labels) in [
        (
            "my_data --to nnunet -o raw",
            "raw/Dataset500_my_data/imagesTr/b_0000.nii.gz",
            "raw/Dataset500_my_data/labelsTr/b.nii.gz",
        ),
        (
            "my_data --to msd -o tasks",
            "tasks/Task11_my-data/imagesTr/b.nii.gz",
            "tasks/Task11_my-data/labelsTr/b.nii.gz",
        ),
    ] {
        let log = stderr(&convert(folder.path(), line, 0));
        assert!(log.contains("b: the image is NIfTI-2"), "{log}");
        let head = start(&at(image), 352 + extension);
        assert_eq!(
            (&head[..4], &head[344..348]),
            (&348i32.to_le_bytes()[..], &b"n+1\0"[..])
        );
        assert_eq!(&head[360..376], b"from the scanner");
        assert_eq!(start(&at(labels), 4), 348i32.to_le_bytes());
        assert_same_volume(&read_volume(&at(image)).unwrap().volume, &expected, line);
    }
    let raw = at("raw/Dataset500_my_data");
    assert_eq!(
        json(&raw.join("dataset.json"))["overwrite_image_reader_writer"],
        Value::Null
    );
    nnunet_accepts(&raw);
    let task = at("tasks/Task11_my-data");
    assert!(task.join("imagesTs").is_dir());
    check_with_nnunet("msd", &task);
    // The same command again keeps the cases.
    let again = convert(folder.path(), "my_data --to msd -o tasks --json", 0);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        (&again["kept"], &again["name"]),
        (&json!(2), &json!("Task11_my-data"))
    );
}

#[test]
fn grids_too_large_for_nifti1_are_read_by_nibabel() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let long = Grid::with_spacing([33_000, 2, 2], [1.0; 3]);
    write_image_on(&at("d/images/a.nii.gz"), long, 0.0);
    write_map_on(&at("d/labels/a.nii.gz"), long, &[1]);
    let log = stderr(&convert(folder.path(), "d --to nnunet -o raw", 0));
    assert!(log.contains("does not fit NIfTI-1"), "{log}");
    let described = json(&at("raw/Dataset500_d/dataset.json"));
    assert_eq!(described["overwrite_image_reader_writer"], "NibabelIO");
    nnunet_accepts(&at("raw/Dataset500_d"));
}

#[test]
fn names_with_underscores_are_refused_for_the_decathlon() {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(&folder.path().join("d"), &[("a", &[1])]);
    for line in [
        "d --to msd -o tasks --name my_data",
        "d --to msd -o tasks --name Task12_my_data",
        "d --to msd -o tasks/Task12_my_data",
    ] {
        let log = stderr(&convert(folder.path(), line, 2));
        assert!(
            log.contains("my_data contains '_'") && log.contains("use my-data"),
            "{log}"
        );
    }
    assert!(!folder.path().join("tasks").exists());
    convert(folder.path(), "d --to nnunet -o raw --name my_data", 0);
}
