//! Round trips with real CT.

use super::*;

/// Fails unless both datasets have the same ids, images, labels and test cases.
fn assert_same_cases(a: &Dataset, b: &Dataset, values: &dyn Fn(u16) -> u16) {
    let ids = |dataset: &Dataset| -> Vec<String> {
        dataset.cases.iter().map(|case| case.id.clone()).collect()
    };
    assert_eq!(ids(a), ids(b));
    assert_eq!(a.test, b.test);
    for (a_case, b_case) in a.cases.iter().zip(&b.cases) {
        let (a_loaded, b_loaded) = (a.load(a_case).unwrap(), b.load(b_case).unwrap());
        assert_same_volume(&a_loaded.volume, &b_loaded.volume, &a_case.id);
        let expected = a_loaded.labels.data.mapv(values);
        assert_eq!(expected, b_loaded.labels.data, "{}", a_case.id);
        let types = [&a_loaded, &b_loaded].map(|loaded| loaded.header.voxel_type);
        assert_eq!(types[0], types[1]);
    }
}

/// Pairs of images and label maps for nibabel.
fn pairs(
    a: &Dataset,
    b: &Dataset,
    values: &Value,
) -> Vec<(&'static str, Vec<PathBuf>, Vec<PathBuf>, Value)> {
    let cases = a.cases.iter().zip(&b.cases);
    cases
        .flat_map(|(a, b)| {
            let image = (
                "image",
                vec![a.image.clone()],
                vec![b.image.clone()],
                json!({}),
            );
            let (LabelSource::Map(a), LabelSource::Map(b)) = (&a.labels, &b.labels) else {
                panic!("no label maps: {a:?} {b:?}");
            };
            [
                image,
                ("labels", vec![a.clone()], vec![b.clone()], values.clone()),
            ]
        })
        .collect()
}

#[test]
fn headneck_converts_to_nnunet_to_the_decathlon_and_back() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let descriptor = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/headneck.toml");
    let root = data.to_str().unwrap();
    let mut first = vec!["convert", descriptor, "--data-root", root, "--to", "nnunet"];
    first.extend(["-o", "raw", "--id", "42", "--folds", "5"]);
    run(folder.path(), &first, 0);
    let line = "raw/Dataset042_headneck --to msd -o tasks";
    convert(folder.path(), line, 0);
    let line = "tasks/Task42_headneck --to nnunet -o back/Dataset007_Again";
    convert(folder.path(), line, 0);
    let source = Dataset::open_in(Path::new(descriptor), Some(&data)).unwrap();
    let raw = Dataset::open(&at("raw/Dataset042_headneck")).unwrap();
    let task = Dataset::open(&at("tasks/Task42_headneck")).unwrap();
    let back = Dataset::open(&at("back/Dataset007_Again")).unwrap();
    for other in [&raw, &task, &back] {
        assert_same_cases(&source, other, &|value| value);
        assert_eq!(other.structures, source.structures);
        assert_eq!(
            (&other.licence, &other.description),
            (&source.licence, &source.description)
        );
        let report = other.check(CheckDepth::Voxels, |_, _| {});
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }
    // Unchanged files are byte-identical copies.
    let bytes = |path: &Path| fs::read(path).unwrap();
    assert_eq!(bytes(&source.cases[0].image), bytes(&back.cases[0].image));
    compare(&pairs(&source, &back, &json!({})));
    assert_described(folder.path());
    // The folds equal those of training.
    let splits = json(&at("raw/Dataset042_headneck/splits_final.json"));
    for fold in 0..5 {
        let split = source.split(5, fold, 1).unwrap();
        let held_out: Vec<&str> = split
            .validation
            .iter()
            .map(|index| source.cases[*index].id.as_str())
            .collect();
        assert_eq!(splits[fold]["val"], json!(held_out));
        assert_eq!(
            splits[fold]["train"].as_array().unwrap().len(),
            26 - held_out.len()
        );
    }
    nnunet_accepts(&at("back/Dataset007_Again"));
}

/// Fails unless `dataset.json` of both layouts describes the head and neck data.
fn assert_described(folder: &Path) {
    let at = |name: &str| folder.join(name);
    let first = json(&at("raw/Dataset042_headneck/dataset.json"));
    let last = json(&at("back/Dataset007_Again/dataset.json"));
    for key in [
        "channel_names",
        "labels",
        "numTraining",
        "file_ending",
        "licence",
    ] {
        assert_eq!(first[key], last[key], "{key}");
    }
    assert_eq!(first["numTraining"], 26);
    let described = json(&at("tasks/Task42_headneck/dataset.json"));
    assert_eq!(
        (
            &described["numTraining"],
            &described["numTest"],
            &described["tensorImageSize"]
        ),
        (&json!(26), &json!(6), &json!("3D"))
    );
    assert_eq!(described["labels"]["0"], "background");
    assert_eq!(
        described["training"][0]["label"],
        "./labelsTr/kbp_002.nii.gz"
    );
    assert_eq!(described["test"][0], "./imagesTs/kbp_168.nii.gz");
}

/// Writes a dataset in TotalSegmentator's layout from one of its label maps.
fn write_totalsegmentator(data: &Path, root: &Path, values: &[(u16, &str)]) {
    let (header, labels) =
        read_labels(&data.join("totalseg/example_seg_fast_force_split.nii.gz")).unwrap();
    for case in ["s0001", "s0002", "s0003"] {
        let folder = root.join(case);
        fs::create_dir_all(folder.join("segmentations")).unwrap();
        fs::copy(
            data.join("totalseg/example_ct.nii.gz"),
            folder.join("ct.nii.gz"),
        )
        .unwrap();
        for (value, name) in values {
            let mask = LabelMap {
                grid: labels.grid,
                data: labels.data.mapv(|label| u16::from(label == *value)),
            };
            assert!(
                mask.data.iter().any(|voxel| *voxel == 1),
                "{name} is missing"
            );
            write_labels(
                &folder.join(format!("segmentations/{name}.nii.gz")),
                &mask,
                &header,
            )
            .unwrap();
        }
    }
    fs::write(
        root.join("meta.csv"),
        "image_id;age;split\ns0001;50;train\ns0002;51;val\ns0003;52;test\n",
    )
    .unwrap();
}

#[test]
fn totalsegmentator_masks_become_label_maps() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // In alphabetical order, as they are renumbered.
    let values = [
        (52, "aorta"),
        (20, "colon"),
        (5, "liver"),
        (1, "spleen"),
        (29, "vertebrae_L3"),
    ];
    write_totalsegmentator(&data, &at("ts"), &values);
    let line = "ts --to nnunet -o raw/Dataset321_Organs --json";
    let summary: Value = serde_json::from_slice(&convert(folder.path(), line, 0).stdout).unwrap();
    assert_eq!(
        (&summary["training"], &summary["test"], &summary["folds"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let converted = at("raw/Dataset321_Organs");
    let described = json(&converted.join("dataset.json"));
    let expected = json!({"background": 0, "aorta": 1, "colon": 2, "liver": 3, "spleen": 4, "vertebrae_L3": 5});
    assert_eq!(described["labels"], expected);
    assert_eq!(
        json(&converted.join("splits_final.json")),
        json!([{"train": ["s0001"], "val": ["s0002"]}])
    );
    let (_, labels) =
        read_labels(&data.join("totalseg/example_seg_fast_force_split.nii.gz")).unwrap();
    let renumbered = |label: u16| {
        let place = values.iter().position(|(value, _)| *value == label);
        place.map_or(0, |place| place as u16 + 1)
    };
    for (case, set) in [("s0001", "Tr"), ("s0003", "Ts")] {
        let (header, found) =
            read_labels(&converted.join(format!("labels{set}/{case}.nii.gz"))).unwrap();
        assert_eq!(found.data, labels.data.mapv(renumbered));
        assert_eq!(header.datatype_name(), "uint8");
        let image =
            read_volume(&converted.join(format!("images{set}/{case}_0000.nii.gz"))).unwrap();
        let source = read_volume(&at("ts/s0001/ct.nii.gz")).unwrap();
        assert_same_volume(&image.volume, &source.volume, case);
        assert!(header.same_placement(&image.header));
    }
    let masks = values
        .iter()
        .map(|(_, name)| at(&format!("ts/s0002/segmentations/{name}.nii.gz")));
    let (image, map) = ("imagesTr/s0002_0000.nii.gz", "labelsTr/s0002.nii.gz");
    let to = |name: &str| vec![converted.join(name)];
    compare(&[
        ("masks", masks.collect(), to(map), json!({})),
        (
            "image",
            vec![at("ts/s0002/ct.nii.gz")],
            to(image),
            json!({}),
        ),
    ]);
    nnunet_accepts(&converted);
}

/// Writes two cases of TotalSegmentator's example in `folder/plain`.
fn write_abdomen_and_small(data: &Path, folder: &Path) {
    let at = |name: &str| folder.join(name);
    for set in ["images", "labels"] {
        fs::create_dir_all(at("plain").join(set)).unwrap();
    }
    // int32 with a NaN slope, and an uncompressed float32 image with its uint8 labels.
    fs::copy(
        data.join("totalseg/example_ct.nii.gz"),
        at("plain/images/abdomen 1.nii.gz"),
    )
    .unwrap();
    fs::copy(
        data.join("totalseg/example_seg_fast_force_split.nii.gz"),
        at("plain/labels/abdomen 1.nii.gz"),
    )
    .unwrap();
    let (header, map) = read_labels(&data.join("totalseg/example_seg.nii.gz")).unwrap();
    let volume = read_volume(&data.join("totalseg/example_ct_sm.nii.gz"))
        .unwrap()
        .volume;
    write_volume(&at("plain/images/small.nii"), &volume, VoxelType::F32).unwrap();
    write_labels(&at("plain/labels/small.nii"), &map, &header).unwrap();
}

#[test]
fn labels_are_renumbered_and_images_stay_identical() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_abdomen_and_small(&data, folder.path());
    let line = "plain --to nnunet -o raw --name Dataset100_Body";
    let output = convert(folder.path(), line, 0);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        printed.contains("labels renumbered: spleen 1 → 1") || printed.contains("structure_"),
        "{printed}"
    );
    assert!(
        printed.contains("cases renamed: abdomen 1 → abdomen_1"),
        "{printed}"
    );
    let source = Dataset::open(&at("plain")).unwrap();
    let converted = Dataset::open(&at("raw/Dataset100_Body")).unwrap();
    let values: Vec<u16> = source
        .structures
        .iter()
        .map(|structure| structure.value)
        .collect();
    assert!(
        values.iter().zip(1..).any(|(value, place)| *value != place),
        "{values:?}"
    );
    let new: Vec<u16> = converted
        .structures
        .iter()
        .map(|structure| structure.value)
        .collect();
    assert_eq!(new, (1..=values.len() as u16).collect::<Vec<_>>());
    let conversion = json(&at("raw/Dataset100_Body/conversion.json"));
    let mut table = serde_json::Map::new();
    for (label, structure) in conversion["labels"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&source.structures)
    {
        assert_eq!(
            (&label["name"], &label["source_value"]),
            (&json!(structure.name), &json!(structure.value))
        );
        table.insert(structure.value.to_string(), label["value"].clone());
    }
    let mut renamed = source.clone();
    renamed.cases[0].id = "abdomen_1".to_owned();
    let place = |value: u16| {
        values
            .iter()
            .position(|other| *other == value)
            .map_or(0, |place| place as u16 + 1)
    };
    assert_same_cases(&renamed, &converted, &place);
    compare(&pairs(&source, &converted, &Value::Object(table)));
    nnunet_accepts(&at("raw/Dataset100_Body"));
}
