//! Recognition of dataset layouts.

use super::*;

#[test]
fn plain_folders_are_paired_by_name_and_structures_numbered() {
    let folder = tempfile::tempdir().unwrap();
    plain(folder.path(), &[&[3, 3], &[1], &[]]);
    fs::rename(
        folder.path().join("labels/c1.nii.gz"),
        folder.path().join("labels/._c1.nii.gz"),
    )
    .unwrap();
    write_map(&folder.path().join("labels/c1.nii"), &[7, 1]);
    let dataset = Dataset::open(folder.path()).unwrap();
    assert_eq!(dataset.layout, Layout::Plain);
    assert_eq!(ids(&dataset), ["c0", "c1", "c2"]);
    assert_eq!(
        names(&dataset),
        [(1, "structure_1"), (3, "structure_3"), (7, "structure_7")]
    );
    assert_eq!(
        dataset.cases[1].labels,
        LabelSource::Map(folder.path().join("labels/c1.nii"))
    );
    assert_eq!(dataset.training_cases(), [0, 1, 2]);
    let report = check(&dataset);
    assert_eq!(problems(&report), [""; 0]);
    assert_eq!(notes(&report), ["c2: the label map is empty"]);
}

fn nnunet(root: &Path, labels: &str, more: &str) {
    write_text(
        &root.join("dataset.json"),
        &format!(
            r#"{{"channel_names": {{"0": "CT"}}, "labels": {labels}, "numTraining": 2,
                "file_ending": ".nii.gz"{more}}}"#
        ),
    );
    for case in ["liver_10", "liver_2"] {
        write_image(&root.join(format!("imagesTr/{case}_0000.nii.gz")));
        write_map(&root.join(format!("labelsTr/{case}.nii.gz")), &[1, 2]);
    }
}

#[test]
fn nnunet_raw() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    nnunet(
        root,
        r#"{"background": 0, "tumour": 2, "liver": 1}"#,
        r#", "licence": "CC0""#,
    );
    write_image(&root.join("imagesTs/a_0000.nii.gz"));
    write_image(&root.join("imagesTs/b_0000.nii.gz"));
    write_map(&root.join("labelsTs/b.nii.gz"), &[2]);
    let dataset = Dataset::open(root).unwrap();
    assert_eq!(
        (dataset.layout, dataset.licence.as_deref()),
        (Layout::NnUnet, Some("CC0"))
    );
    assert_eq!(dataset.name, root.file_name().unwrap().to_str().unwrap());
    assert_eq!(ids(&dataset), ["a", "b", "liver_10", "liver_2"]);
    assert_eq!(names(&dataset), [(1, "liver"), (2, "tumour")]);
    assert_eq!(dataset.test, ["a", "b"]);
    assert_eq!(dataset.training_cases(), [2, 3]);
    assert_eq!(dataset.cases[0].labels, LabelSource::None);
    assert_eq!(
        dataset.cases[1].labels,
        LabelSource::Map(root.join("labelsTs/b.nii.gz"))
    );
    assert_eq!(problems(&check(&dataset)), [""; 0]);
    let error = dataset
        .load_labels(&dataset.cases[0])
        .unwrap_err()
        .to_string();
    assert!(error.contains("case 'a' has no labels"), "{error}");
}

#[test]
fn nnunets_ignore_label_is_not_a_structure() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    nnunet(root, r#"{"background": 0, "liver": 1, "ignore": 2}"#, "");
    let dataset = Dataset::open(root).unwrap();
    assert_eq!(names(&dataset), [(1, "liver")]);
    assert_eq!(dataset.ignore, Some(2));
    assert_eq!(problems(&check(&dataset)), [""; 0]);
    let labels = dataset.load_labels(&dataset.cases[0]).unwrap();
    let count = |labels: &LabelMap, value| labels.data.iter().filter(|l| **l == value).count();
    assert_eq!((count(&labels, 1), count(&labels, 2)), (1, 1));
    let known = dataset.without_ignored(labels);
    assert_eq!((count(&known, 1), count(&known, 2)), (1, 0));
}

#[test]
fn nnunet_with_listed_files() {
    let folder = tempfile::tempdir().unwrap();
    let listed =
        r#", "dataset": {"x": {"images": ["elsewhere/i.nii.gz"], "label": "elsewhere/l.nii.gz"}}"#;
    nnunet(folder.path(), r#"{"background": 0, "liver": 1}"#, listed);
    write_image(&folder.path().join("elsewhere/i.nii.gz"));
    write_map(&folder.path().join("elsewhere/l.nii.gz"), &[1]);
    let dataset = Dataset::open(folder.path()).unwrap();
    assert_eq!(ids(&dataset), ["x"]);
    assert_eq!(problems(&check(&dataset)), [""; 0]);
    let bad = listed.replace("[\"elsewhere/i.nii.gz\"]", "[\"a.nii.gz\", \"b.nii.gz\"]");
    nnunet(folder.path(), r#"{"liver": 1}"#, &bad);
    let text = Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("case 'x' lists 2 images"), "{text}");
}

#[test]
fn unsupported_nnunet_features_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let refused = |labels: &str, more: &str| {
        nnunet(root, labels, more);
        refusal(root)
    };
    let text = refused(r#"{"background": 0, "whole": [1, 2], "core": 2}"#, "");
    assert!(
        text.contains("'whole' is a region ([1,2])") && text.contains("not supported"),
        "{text}"
    );
    let text = refused(r#"{"background": 0, "liver": 2, "ignore": 2}"#, "");
    assert!(
        text.contains("the value 2 is both the ignore label and"),
        "{text}"
    );
    assert!(refused(r#"{"liver": 1, "ignore": 0}"#, "").contains("'ignore' has the value 0"));
    assert!(refused(r#"{"background": 3, "liver": 1}"#, "").contains("expected 0"));
    assert!(refused(r#"{"liver": 70000}"#, "").contains("70000"));
    assert!(refused(r#"{"liver": 1, "spleen": 1}"#, "").contains("both have the value 1"));
    assert!(refused(r#"{"liver": 1.5}"#, "").contains("1.5"));
    assert!(refused("{}", "").contains("no labels"));
    write_image(&root.join("imagesTr/liver_2_0001.nii.gz"));
    let text = refused(r#"{"background": 0, "liver": 1}"#, "");
    assert!(
        text.contains("liver_2_0001.nii.gz: a second channel"),
        "{text}"
    );
    let channels = r#"{"channel_names": {"0": "CT", "1": "PET"}, "labels": {"a": 1}, "file_ending": ".nii.gz"}"#;
    write_text(&root.join("dataset.json"), channels);
    assert!(refusal(root).contains("2 channels (\"CT\", \"PET\")"));
    write_text(
        &root.join("dataset.json"),
        &channels
            .replace(", \"1\": \"PET\"", "")
            .replace(".nii.gz", ".png"),
    );
    assert!(refusal(root).contains("file_ending is '.png'"));
    write_text(&root.join("dataset.json"), "{\"labels\": ");
    assert!(refusal(root).contains("line 1"));
    write_text(&root.join("dataset.json"), r#"{"labels": {"a": 1}}"#);
    assert!(refusal(root).contains("neither nnU-Net v2"));
}

#[test]
fn decathlon_without_macos_metadata_files() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for case in ["liver_1", "liver_0"] {
        write_image(&root.join(format!("imagesTr/{case}.nii.gz")));
        write_map(&root.join(format!("labelsTr/{case}.nii.gz")), &[1]);
        write_text(&root.join(format!("imagesTr/._{case}.nii.gz")), "litter");
        write_text(&root.join(format!("labelsTr/._{case}.nii.gz")), "litter");
    }
    write_image(&root.join("imagesTs/liver_9.nii.gz"));
    write_map(&root.join("labelsTr/liver_5.nii.gz"), &[1]);
    write_text(
        &root.join("dataset.json"),
        r#"{"name": "Liver", "description": "Liver and cancer", "licence": "CC-BY-SA 4.0",
            "tensorImageSize": "3D", "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "liver", "2": "cancer"}, "numTraining": 3,
            "training": [{"image": "./imagesTr/._liver_1.nii.gz", "label": "./labelsTr/._liver_1.nii.gz"},
                         {"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz"},
                         {"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"}],
            "test": ["./imagesTs/liver_9.nii.gz"]}"#,
    );
    let dataset = Dataset::open(root).unwrap();
    assert_eq!(
        (dataset.layout, dataset.name.as_str()),
        (Layout::Decathlon, "Liver")
    );
    assert_eq!(ids(&dataset), ["liver_0", "liver_1", "liver_9"]);
    assert_eq!(names(&dataset), [(1, "liver"), (2, "cancer")]);
    assert_eq!(dataset.test, ["liver_9"]);
    let report = check(&dataset);
    let found = problems(&report);
    assert!(
        found.len() == 1 && found[0].contains("liver_5.nii.gz: labels without an image"),
        "{found:?}"
    );
    assert_eq!(
        notes(&report),
        ["structure 'cancer' (value 2) occurs in no case"]
    );
}

fn total_segmentator(root: &Path) {
    for case in ["s0002", "s0001"] {
        write_image(&root.join(case).join("ct.nii.gz"));
        write_map(
            &root.join(case).join("segmentations/spleen.nii.gz"),
            &[0, 1, 1],
        );
    }
    write_map(&root.join("s0001/segmentations/liver.nii.gz"), &[1, 1]);
    write_map(
        &root.join("s0002/segmentations/aorta.nii.gz"),
        &[0, 0, 0, 0, 1],
    );
    write_text(&root.join("s0002/notes.txt"), "");
}

#[test]
fn total_segmentator_numbers_the_union_of_names_and_later_masks_win() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    total_segmentator(root);
    let dataset = Dataset::open(root).unwrap();
    assert_eq!(dataset.layout, Layout::TotalSegmentator);
    assert_eq!(ids(&dataset), ["s0001", "s0002"]);
    assert_eq!(names(&dataset), [(1, "aorta"), (2, "liver"), (3, "spleen")]);
    let first: Vec<u16> = dataset
        .load_labels(&dataset.cases[0])
        .unwrap()
        .data
        .into_iter()
        .take(5)
        .collect();
    assert_eq!(first, [2, 3, 3, 0, 0]);
    let second: Vec<u16> = dataset
        .load_labels(&dataset.cases[1])
        .unwrap()
        .data
        .into_iter()
        .take(5)
        .collect();
    assert_eq!(second, [0, 3, 3, 0, 1]);
    let report = check(&dataset);
    assert_eq!(problems(&report), [""; 0]);
    assert_eq!(
        notes(&report),
        [
            "s0001: masks overlap in 1 voxel; the structure with the higher value wins",
            "s0001: no mask of aorta; treated as background",
            "s0002: no mask of liver; treated as background",
        ]
    );
}

#[test]
fn total_segmentator_takes_its_test_cases_from_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    total_segmentator(root);
    let table = "\u{feff}image_id;age;split\ns0001;60;train\ns0002;61;test\ns0009;;test\n";
    write_text(&root.join("meta.csv"), table);
    let dataset = Dataset::open(root).unwrap();
    assert_eq!(dataset.test, ["s0002"]);
    assert_eq!(dataset.training_cases(), [0]);
    write_text(&root.join("meta.csv"), "a,b\n1,2\n");
    let text = Dataset::open(root).unwrap_err().to_string();
    assert!(
        text.contains("meta.csv: has no columns image_id and split"),
        "{text}"
    );
}

#[test]
fn an_unknown_layout_is_refused_with_the_supported_ones() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.nii.gz", "b.nii.gz", "c", "d", "e"] {
        write_text(&folder.path().join(name), "");
    }
    let text = refusal(folder.path());
    for part in [
        "dataset.json",
        "images/",
        "ct.nii.gz",
        "descriptor",
        "a.nii.gz, b.nii.gz, c, d, … (5 entries)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(refusal(&folder.path().join("a.nii.gz")).contains(".toml"));
    assert!(refusal(&folder.path().join("absent")).contains("cannot open"));
    let empty = tempfile::tempdir().unwrap();
    plain(empty.path(), &[]);
    fs::create_dir(empty.path().join("images")).unwrap();
    fs::create_dir(empty.path().join("labels")).unwrap();
    assert!(refusal(empty.path()).contains("no image found"));
}

#[test]
fn lists_of_nnunet_version_1_lack_the_channel_number() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_image(&root.join("imagesTr/la_003_0000.nii.gz"));
    write_map(&root.join("labelsTr/la_003.nii.gz"), &[1]);
    let json = r#"{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "atrium"},
        "training": [{"image": "./imagesTr/la_003.nii.gz", "label": "./labelsTr/la_003.nii.gz"}], "test": []}"#;
    write_text(&root.join("dataset.json"), json);
    let dataset = Dataset::open(root).unwrap();
    assert_eq!(ids(&dataset), ["la_003"]);
    assert_eq!(problems(&check(&dataset)), [""; 0]);
    let two = json.replace("{\"0\": \"CT\"}", "{\"0\": \"T2\", \"1\": \"ADC\"}");
    write_text(&root.join("dataset.json"), &two);
    assert!(refusal(root).contains("modality lists 2 channels"));
}

#[test]
fn dataset_json_in_common_variants_and_encodings() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for case in ["a", "b"] {
        write_image(&root.join(format!("imagesTr/{case}_0000.nii.gz")));
        write_map(&root.join(format!("labelsTr/{case}.nii.gz")), &[1]);
    }
    let of = |labels: &str, more: &str| {
        format!(
            "{{\r\n\"channel_names\": {{\"0\": \"CT\"}}, \"labels\": {labels}, \"file_ending\": \".nii.gz\"{more}}}"
        )
    };
    let plain = of(r#"{"background": 0, "thing": 1}"#, "");
    let utf16: Vec<u8> = plain.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let texts = [
        plain.clone().into_bytes(),
        [b"\xef\xbb\xbf", plain.as_bytes()].concat(),
        [b"\xff\xfe".as_slice(), &utf16].concat(),
        of(r#"{"Background": 0, "thing": 1.0}"#, "").into_bytes(),
        of(r#"{"background": "0", "thing": "1"}"#, "").into_bytes(),
        of(
            r#"{"0": "background", "1": "thing"}"#,
            r#", "training": []"#,
        )
        .into_bytes(),
        of(
            r#"{"thing": 1}"#,
            r#", "name": null, "release": 1.0, "description": ["a"]"#,
        )
        .into_bytes(),
        plain.replace(".nii.gz", "nii.gz").into_bytes(),
    ];
    for text in texts {
        fs::write(root.join("dataset.json"), &text).unwrap();
        let dataset = Dataset::open(root).unwrap();
        assert_eq!(ids(&dataset), ["a", "b"], "{}", text.escape_ascii());
        assert_eq!(names(&dataset), [(1, "thing")]);
        assert_eq!(dataset.layout, Layout::NnUnet);
        let (_, channels) = Dataset::open_channels(root, None, &[]).unwrap();
        assert_eq!(channels.names, ["CT"]);
    }
    let descriptor = "\u{feff}name = \"x\"\r\nimages = \"imagesTr/*_0000.nii.gz\"\r\nlabels = \"labelsTr/{case}.nii.gz\"\r\n[structures]\r\nthing = 1\r\n";
    write_text(&root.join("x.toml"), descriptor);
    assert_eq!(
        ids(&Dataset::open(&root.join("x.toml")).unwrap()),
        ["a", "b"]
    );
}
