//! Expansion of arguments to files.

use std::fs;

use super::*;

fn touch(folder: &Path, names: &[&str]) {
    for name in names {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
}

/// The files found, relative to `folder`.
fn found(folder: &Path, arguments: &[&str]) -> Vec<String> {
    let arguments: Vec<OsString> = arguments
        .iter()
        .map(|argument| match argument.strip_prefix('@') {
            Some(list) => format!("@{}", folder.join(list).display()).into(),
            None => folder.join(argument).into(),
        })
        .collect();
    let found = expand_inputs(&arguments, &folder.join("out"), None).unwrap();
    let paths = found.files;
    let relative = |path: PathBuf| path.strip_prefix(folder).unwrap().display().to_string();
    paths.into_iter().map(relative).collect()
}

#[test]
fn folders_are_searched_recursively_and_links_are_followed_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = &folder.path().canonicalize().unwrap();
    let names = ["b.nii", "a/x.nii.gz", "a/deep/er/y.NII.GZ", "a/note.txt"];
    touch(folder, &names);
    touch(folder, &[".hidden/z.nii", "a/.z.nii", "out/x.nii.gz"]);
    let all = ["a/deep/er/y.NII.GZ", "a/x.nii.gz", "b.nii"];
    assert_eq!(found(folder, &[""]), all);
    // Given explicitly, the output folder is an input like any other.
    assert_eq!(found(folder, &["out"]), ["out/x.nii.gz"]);
    assert_eq!(found(folder, &["b.nii", "", "b.nii"])[0], "b.nii");
    assert_eq!(found(folder, &["b.nii", "", "b.nii"]).len(), 3);
    assert_eq!(
        found(folder, &["**/*.nii.gz"]),
        ["a/x.nii.gz", "out/x.nii.gz"]
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink("..", folder.join("a/loop")).unwrap();
        symlink("../b.nii", folder.join("a/again.nii")).unwrap();
        symlink("nowhere", folder.join("a/broken.nii")).unwrap();
        let linked = found(folder, &[""]);
        assert_eq!(linked.len(), 4, "{linked:?}");
        assert!(linked.contains(&"a/broken.nii".to_owned()));
        let matched = found(folder, &["**/*.nii.gz"]);
        assert_eq!(matched.len(), 2, "{matched:?}");
    }
}

#[test]
fn lists_have_comments_and_paths_relative_to_either_folder() {
    let folder = tempfile::tempdir().unwrap();
    let folder = &folder.path().canonicalize().unwrap();
    touch(folder, &["lists/x.nii", "lists/more/y.nii", "z.nii"]);
    let list = |text: &str| fs::write(folder.join("lists/cases.txt"), text).unwrap();
    list("\u{feff}# two\r\n\r\nx.nii\r\n  more \r\n../z.nii\n");
    let cases = found(folder, &["@lists/cases.txt"]);
    assert_eq!(cases, ["lists/x.nii", "lists/more/y.nii", "lists/../z.nii"]);
    let units = "\u{feff}x.nii\r\n../z.nii\r\n".encode_utf16();
    let utf16: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
    fs::write(folder.join("lists/cases.txt"), utf16).unwrap();
    let cases = found(folder, &["@lists/cases.txt"]);
    assert_eq!(cases, ["lists/x.nii", "lists/../z.nii"]);
    list("x.*\nmissing.nii\n");
    // A missing file is a failed case, not a broken list.
    let argument: [OsString; 1] = [format!("@{}", folder.join("lists/cases.txt").display()).into()];
    let paths = expand_inputs(&argument, folder, None).unwrap();
    assert_eq!(paths.files[1], Path::new("missing.nii"));
    list("nothing*.nii\n");
    let error = expand_inputs(&argument, folder, None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("nothing*.nii") && error.contains("cases.txt"),
        "{error}"
    );
}

#[test]
fn folders_with_names_of_volumes_are_folders() {
    let folder = tempfile::tempdir().unwrap();
    let folder = &folder.path().canonicalize().unwrap();
    touch(folder, &["a.nii/a.nii", "b.nii.gz/x/y.nii.gz", "c.nii"]);
    let all = ["a.nii/a.nii", "b.nii.gz/x/y.nii.gz", "c.nii"];
    assert_eq!(found(folder, &[""]), all);
    assert_eq!(found(folder, &["*.nii*"]), all);
}

/// Datasets of every layout below `all`, and a descriptor.
fn datasets(folder: &Path) {
    touch(
        folder,
        &[
            "all/raw/Dataset001_a/imagesTr/x_0000.nii.gz",
            "all/raw/Dataset001_a/labelsTr/x.nii.gz",
            "all/raw/Dataset001_a/imagesTs/y_0000.nii.gz",
            "all/two/imagesTr/p_0000.nii.gz",
            "all/two/imagesTr/p_0001.nii.gz",
            "all/two/labelsTr/p.nii.gz",
            "all/bare/imagesTs/b_0000.nii.gz",
            "all/bare/labelsTs/b.nii.gz",
            "all/task/imagesTr/l.nii.gz",
            "all/task/labelsTr/l.nii.gz",
            "all/plain/images/c.nii",
            "all/plain/labels/c.nii",
            "all/total/s0001/ct.nii.gz",
            "all/total/s0001/segmentations/liver.nii.gz",
            "all/total/s0002/ct.nii.gz",
            "all/total/s0002/segmentations/liver.nii.gz",
            "all/own/P1/scan.nii",
            "all/own/P1/mask.nii",
            "all/other.nii",
        ],
    );
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    // Labels that training cannot use do not prevent prediction.
    let json =
        r#"{"channel_names": {"0": "CT"}, "labels": {"whole": [1, 2]}, "file_ending": ".nii.gz"}"#;
    write("all/raw/Dataset001_a/dataset.json", json);
    let json =
        r#"{"channel_names": {"0": "PET", "1": "CT"}, "labels": {}, "file_ending": ".nii.gz"}"#;
    write("all/two/dataset.json", json);
    let json = r#"{"modality": {"0": "CT"}, "labels": {}, "training":
        [{"image": "./imagesTr/l.nii.gz", "label": "./labelsTr/l.nii.gz"}], "test": []}"#;
    write("all/task/dataset.json", json);
    let descriptor = "name = \"own\"\nroot = \"all/own\"\nimages = \"*/scan.nii\"\nlabels = \"{case}/mask.nii\"\n";
    write("own.toml", descriptor);
}

#[test]
fn only_the_images_of_datasets_are_inputs_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let folder = &folder.path().canonicalize().unwrap();
    datasets(folder);
    assert_eq!(
        found(folder, &["all"]),
        [
            "all/bare/imagesTs/b_0000.nii.gz",
            "all/other.nii",
            "all/own/P1/mask.nii",
            "all/own/P1/scan.nii",
            "all/plain/images/c.nii",
            "all/raw/Dataset001_a/imagesTr/x_0000.nii.gz",
            "all/raw/Dataset001_a/imagesTs/y_0000.nii.gz",
            "all/task/imagesTr/l.nii.gz",
            "all/total/s0001/ct.nii.gz",
            "all/total/s0002/ct.nii.gz",
            "all/two/imagesTr/p_0001.nii.gz",
        ]
    );
    assert_eq!(found(folder, &["own.toml"]), ["all/own/P1/scan.nii"]);
    let notes = |argument: &str| {
        let argument: [OsString; 1] = [folder.join(argument).into()];
        expand_inputs(&argument, Path::new("out"), None)
            .unwrap()
            .notes
    };
    let all = notes("all");
    assert_eq!(all.len(), 6, "{all:?}");
    let total = all.iter().find(|note| note.contains("TotalSegmentator"));
    assert!(
        total.is_some_and(
            |note| note.contains("all/total: dataset") && note.contains("its 2 images")
        ),
        "{all:?}"
    );
    assert_eq!(notes("all/other.nii"), [""; 0]);
    // None of the channels is called CT.
    let json =
        r#"{"channel_names": {"0": "PET", "1": "T2"}, "labels": {}, "file_ending": ".nii.gz"}"#;
    fs::write(folder.join("all/two/dataset.json"), json).unwrap();
    let error = expand_inputs(&[folder.join("all").into()], Path::new("out"), None);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("channel_names lists 2 channels"), "{error}");
}

#[test]
fn the_error_names_files_of_other_formats() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.nrrd"), "NRRD0004\n").unwrap();
    let argument = [folder.path().into()];
    let error = expand_inputs(&argument, Path::new("out"), None).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("; x.nrrd is an NRRD image: convert it"),
        "{error}"
    );
}
