//! Requests, manifests and parts that are refused.

use super::*;

#[test]
fn invalid_requests_give_one_line_errors() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    save(&here.join("scans/case.nii.gz"), &scan());
    publish_levels(&here.join("single"), &ORGANS, 4.0);
    for (more, code, expected) in [
        (
            &["--structures", "splen"][..],
            2,
            "expected one or more of spleen",
        ),
        (&["--structures", "@none.txt"], 1, "none.txt"),
        (&["--structures", " "], 2, "--structures is empty"),
        (&["--save-probabilities"], 2, "one part's folder"),
        (&["--save-entropy"], 2, "one part's folder"),
        (&["--attention"], 2, "one part's folder"),
        (&["--split", "--overlap"], 2, "one part's folder"),
        (
            &["--model", "single", "--model", "model"],
            1,
            "cannot be part of an ensemble",
        ),
        (
            &["--model", "single", "--structures", "lever"],
            2,
            "expected one or more of liver",
        ),
    ] {
        let log = predict(here, more, code);
        assert!(log.contains(expected), "{more:?}: {log}");
        assert_eq!(log.trim().lines().count(), 1, "{more:?}: {log}");
    }
    phantoms(&here.join("data"), 2, 0);
    let calibrate = ["calibrate", "--model", "model", "--data", "data"];
    let log = stderr(&run(here, &calibrate, 1));
    assert!(log.contains("is a multi-part model"), "{log}");
    // A part is a model by itself.
    assert_eq!(counts(here, &["--model", "model/rest"]), (1, 0));
}

#[test]
fn changed_manifests_and_parts_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    save(&here.join("scans/case.nii.gz"), &scan());
    let refused = |expected: &[&str]| {
        let log = predict(here, &[], 1);
        assert!(expected.iter().all(|part| log.contains(part)), "{log}");
        assert_eq!(log.trim().lines().count(), 1, "{log}");
    };
    let weights = here.join("model/rest/stage2.safetensors");
    let whole = fs::read(&weights).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&weights, changed).unwrap();
    refused(&["rest/stage2.safetensors", "SHA-256"]);
    fs::write(&weights, whole).unwrap();
    // A valid but different model in place of a part.
    fs::rename(here.join("model/rest"), here.join("kept")).unwrap();
    publish_levels(&here.join("model/rest"), &ORGANS, 4.0);
    refused(&["model/rest", "is not the model in parts.toml"]);
    fs::remove_dir_all(here.join("model/rest")).unwrap();
    fs::rename(here.join("kept"), here.join("model/rest")).unwrap();
    let manifest = here.join("model/parts.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(
        &manifest,
        text.replace("margin_mm = 20.0", "margin_mm = 2.0"),
    )
    .unwrap();
    refused(&["parts.toml", "damaged"]);
    fs::write(&manifest, text).unwrap();
    predict(here, &[], 0);
}

type Change = fn(&mut MultiPartManifest);

/// Changes of a manifest, and a part of the error of each.
const INVALID_MANIFESTS: [(Change, &str); 9] = [
    (
        |m| {
            m.parts[0].labels.insert("1".to_owned(), 99);
        },
        "99",
    ),
    (
        |m| {
            m.parts[0].labels.remove("1");
        },
        "no part segments structure 'liver'",
    ),
    (
        |m| {
            m.parts[0].labels.insert("77".to_owned(), 1);
        },
        "77",
    ),
    (
        |m| {
            m.parts[0].labels.insert("0".to_owned(), 1);
        },
        "'0'",
    ),
    (|m| m.parts[1].folder = "../rest".to_owned(), "../rest"),
    (|m| m.parts[1].folder = "organs".to_owned(), "organs"),
    (
        |m| {
            m.structures.insert("9".to_owned(), "liver".to_owned());
        },
        "two label values",
    ),
    (
        |m| m.rough.as_mut().unwrap().margin_mm = f64::NAN,
        "margin_mm",
    ),
    (
        |m| {
            let rough = m.rough.as_mut().unwrap();
            rough
                .stands_for
                .insert("liver".to_owned(), vec!["lever".to_owned()]);
        },
        "'lever'",
    ),
];

#[test]
fn models_that_do_not_match_are_not_combined() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let publish =
        |change: &dyn Fn(&mut MultiPartManifest)| publish_with(here, (&ROUGH, 4.0), change);
    for (change, expected) in INVALID_MANIFESTS {
        let message = publish(&change).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(
            !here.join("model").exists() && here.read_dir().unwrap().count() == 0,
            "{message}"
        );
    }
    // A folder that is not a multi-part model is not replaced.
    fs::create_dir(here.join("model")).unwrap();
    fs::write(here.join("model/thesis.txt"), "years of work").unwrap();
    let message = publish(&|_| {}).unwrap_err().to_string();
    assert!(message.contains("thesis.txt"), "{message}");
    fs::remove_file(here.join("model/thesis.txt")).unwrap();
    publish(&|_| {}).unwrap();
    publish(&|manifest| manifest.name = "again".to_owned()).unwrap();
    let model = MultiPartModel::open(&here.join("model")).unwrap();
    assert_eq!(model.manifest.name, "again");
    assert_eq!(here.read_dir().unwrap().count(), 1);
}
