//! Files of an older ctseg are read: a model, a run to resume, finished cases, pending events for MLflow.
//! `tests/data/compat` was written by `scripts/make_compat_fixtures.py` and is never regenerated.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::common::batches::json;
use crate::common::fake_mlflow::{Fake, body, is};
use crate::common::runs::{only_run, written_and_kept};
use crate::common::{ctseg, run, stderr};
use ctseg_engine::weights::read_tensors;
use ctseg_image::nifti::read_labels;
use serde_json::{Value, json};
use wiremock::{Request, ResponseTemplate};

/// The folder where the files were made; replaced by the folder of the copy.
const MADE_IN: &str = "/tmp/ctseg-fixture";

/// Options with bit-identical results.
const EXACT: [&str; 6] = ["--device", "flex", "--precision", "f32", "--threads", "1"];

/// Rounding differs between processors (AVX-512, AVX2, SSE), by up to 5e-7 in these weights; a tenth more weight decay
/// makes 2e-3. On one processor the weights are bit-identical (tests/with_engine/training/resume.rs).
const ROUNDING: f32 = 1e-5;

/// The modification time of the input, which processes that share cases compare.
const INPUT_CHANGED: Duration = Duration::from_secs(1_700_000_000);

/// A copy of the files with absolute paths to the copy.
fn fixture() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compat");
    copy(&from, folder.path(), &folder.path().display().to_string());
    let input = fs::File::options()
        .write(true)
        .open(folder.path().join("data/images/case_4.nii.gz"));
    let changed = SystemTime::UNIX_EPOCH + INPUT_CHANGED;
    input.unwrap().set_modified(changed).unwrap();
    folder
}

fn copy(from: &Path, to: &Path, place: &str) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to, place);
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(text) => fs::write(&to, text.replace(MADE_IN, place)).unwrap(),
            Err(_) => drop(fs::copy(&path, &to).unwrap()), // not text
        }
    }
}

/// Runs `predict` into `out`; the numbers of cases written and kept.
fn predict(folder: &Path, out: &str, more: &[&str]) -> (usize, usize) {
    let input = "data/images/case_4.nii.gz";
    written_and_kept(folder, &[&[input, "-o", out], &EXACT[..], more].concat())
}

#[test]
fn a_model_still_predicts_the_same() {
    let folder = fixture();
    let at = |name: &str| folder.path().join(name);
    assert_eq!(predict(folder.path(), "again", &["--split"]), (1, 0));
    for name in [
        "case_4.nii.gz",
        "case_4/liver.nii.gz",
        "case_4/spleen.nii.gz",
    ] {
        let (before, after) = (at("out").join(name), at("again").join(name));
        let (old_header, old) = read_labels(&before).unwrap();
        let (new_header, new) = read_labels(&after).unwrap();
        assert!(old.data.iter().any(|label| *label > 0), "{name} is empty");
        assert!(old == new, "{name}: voxels differ");
        assert_eq!(old_header.grid(), new_header.grid(), "{name}");
        // Headers name the release, and releases may compress differently.
        if env!("CARGO_PKG_VERSION") == "0.1.0" {
            let same = fs::read(&before).unwrap() == fs::read(&after).unwrap();
            assert!(same, "{name}: bytes differ");
        }
    }
    let (old, new) = (json(&at("out/case_4.json")), json(&at("again/case_4.json")));
    for name in [
        "model_sha256",
        "input_sha256",
        "structures",
        "volumes_ml",
        "notes",
    ] {
        assert_eq!(old[name], new[name], "{name}");
    }
}

#[test]
fn a_resumed_run_reaches_the_expected_weights() {
    let folder = fixture();
    let place = folder.path().join("resumable");
    let run_folder = only_run(&place);
    let ended = |folder: &Path| json(&folder.join("state.json"))["ended"]["outcome"].clone();
    assert_eq!(ended(&run_folder), "interrupted");
    let resume = ["fit", "--resume", run_folder.to_str().unwrap()];
    let log = stderr(&run(folder.path(), &[&resume, &EXACT[..]].concat(), 0));
    assert_eq!(ended(&run_folder), "finished", "{log}");
    // The old run has no data fingerprint; one is written now.
    assert!(log.contains("started by an earlier version"), "{log}");
    assert!(run_folder.join("data_fingerprint.json").exists());
    let weights = |folder: &Path| read_tensors(&folder.join("stage1.safetensors")).unwrap().0;
    let expected = weights(&folder.path().join("resumed"));
    let found = weights(&place.join("model"));
    assert_eq!(
        expected.keys().collect::<Vec<_>>(),
        found.keys().collect::<Vec<_>>()
    );
    for (name, expected) in &expected {
        let found = &found[name];
        assert_eq!(found.shape, expected.shape, "{name}");
        for (found, expected) in found.values.iter().zip(&expected.values) {
            let difference = (found - expected).abs();
            assert!(difference <= ROUNDING, "{name}: {found} and {expected}");
        }
    }
}

#[test]
fn finished_cases_are_kept() {
    let folder = fixture();
    let out = folder.path().join("out");
    let contents = || -> BTreeMap<&str, Vec<u8>> {
        let names = [
            "case_4.nii.gz",
            "case_4.json",
            "case_4/liver.nii.gz",
            "case_4/spleen.nii.gz",
        ];
        names
            .map(|name| (name, fs::read(out.join(name)).unwrap()))
            .into()
    };
    let before = contents();
    assert_eq!(predict(folder.path(), "out", &[]), (0, 1));
    assert_eq!(predict(folder.path(), "out", &["--split"]), (0, 1));
    let counts = &json(&out.join("predictions.json"))["counts"];
    assert_eq!(
        *counts,
        json!({"done": 0, "kept": 1, "failed": 0, "pending": 0})
    );
    let shared = ["--split", "--claim", "claims"];
    assert_eq!(predict(folder.path(), "out", &shared).0, 0);
    assert!(contents() == before, "files were written again");
}

#[test]
fn cases_are_kept_by_the_inference_version_and_not_by_the_release() {
    let folder = fixture();
    let sidecar = folder.path().join("out/case_4.json");
    let set = |name: &str, value: Value| {
        let mut content = json(&sidecar);
        content[name] = value;
        fs::write(&sidecar, content.to_string()).unwrap();
    };
    let made_by = json(&sidecar);
    assert_eq!(
        (&made_by["ctseg_version"], made_by.get("inference_version")),
        (&json!("0.1.0"), None)
    );
    set("ctseg_version", json!("0.0.1"));
    assert_eq!(predict(folder.path(), "out", &[]), (0, 1));
    set("inference_version", json!(1));
    assert_eq!(predict(folder.path(), "out", &[]), (0, 1));
    set("inference_version", json!(2));
    assert_eq!(predict(folder.path(), "out", &[]), (1, 0));
    let made_by = json(&sidecar);
    assert_eq!(made_by["inference_version"], 1);
    assert_eq!(made_by["ctseg_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(predict(folder.path(), "out", &[]), (0, 1));
}

/// The metrics, params or tags sent to the server.
fn sent_items(requests: &[Request], what: &str) -> Vec<String> {
    let batches = requests.iter().filter(|request| is(request, "log-batch"));
    let items = batches.flat_map(|request| body(request)[what].as_array().cloned().unwrap());
    let mut items: Vec<String> = items.map(|item| item.to_string()).collect();
    items.sort_unstable();
    items
}

/// The items expected from the events, in the form of [`sent_items`].
fn expected_items(events: &[Value], kind: &str) -> Vec<String> {
    let of_kind = events.iter().filter(|event| event["event"] == kind);
    let items = of_kind.flat_map(|event| {
        let values = event["values"].as_object().unwrap().iter();
        values.map(move |(key, value)| match kind {
            "metrics" => {
                json!({"key": key, "value": value, "timestamp": event["at"], "step": event["step"]})
            }
            _ => json!({"key": key, "value": value}),
        })
    });
    let mut items: Vec<String> = items.map(|item| item.to_string()).collect();
    items.sort_unstable();
    items
}

/// Answers requests for logged models, which the fake server does not know.
fn answer_models(request: &Request) -> Option<ResponseTemplate> {
    let model = json!({"model": {"info": {
        "model_id": "m1", "artifact_uri": "mlflow-artifacts:/1/models/m1/artifacts",
    }}});
    is(request, "logged-models").then(|| ResponseTemplate::new(200).set_body_json(model))
}

/// Fails unless the metrics, parameters and tags of the events were sent.
fn assert_values(requests: &[Request], events: &[Value]) {
    for (kind, what) in [
        ("metrics", "metrics"),
        ("parameters", "params"),
        ("tags", "tags"),
    ] {
        // The run of each fold also carries the parameters, and the fold number.
        let numbers = |item: &String| what == "params" && item.starts_with(r#"{"key":"fold","#);
        let (folds, sent): (Vec<_>, Vec<_>) =
            sent_items(requests, what).into_iter().partition(numbers);
        let copies = 1 + folds.len();
        let expected = expected_items(events, kind).into_iter();
        let expected: Vec<String> = expected
            .flat_map(|item| std::iter::repeat_n(item, copies))
            .collect();
        assert!(!expected.is_empty() && sent == expected, "{kind}");
    }
}

#[test]
fn pending_events_are_sent_once() {
    let folder = fixture();
    let run_folder = only_run(&folder.path().join("tracked"));
    let text = fs::read_to_string(run_folder.join("tracking/events.jsonl")).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.last().unwrap()["status"], "FINISHED");
    let fake = Fake::start(Box::new(answer_models));
    let sync = || -> Value {
        let output = ctseg(folder.path(), &["sync", "tracked/runs", "--json"])
            .env("MLFLOW_TRACKING_URI", fake.uri())
            .env("NO_PROXY", "127.0.0.1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let synced = &sync()["runs"][0];
    assert_eq!(
        (&synced["complete"], &synced["left_out"]),
        (&json!(true), &json!(0)),
        "{synced}"
    );
    let requests = fake.requests();
    assert_values(&requests, &events);
    let count = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert_eq!(fake.count("log-inputs"), count("dataset"));
    assert_eq!((fake.count("logged-models"), count("model")), (1, 1));
    assert_files(&requests, &run_folder, &events);
    assert_eq!(
        body(requests.iter().rfind(|r| is(r, "runs/update")).unwrap())["status"],
        "FINISHED"
    );
    // Everything has arrived: nothing is sent again.
    let again = &sync()["runs"][0];
    assert_eq!(
        (&again["metrics"], &again["files"]),
        (&json!(0), &json!(0)),
        "{again}"
    );
    let more = &fake.requests()[requests.len()..];
    assert!(
        more.iter().all(|request| request.method.as_str() == "GET"),
        "{more:?}"
    );
}

/// Fails unless every file named by the events was uploaded once.
fn assert_files(requests: &[Request], run: &Path, events: &[Value]) {
    let mut put: BTreeMap<&str, &[u8]> = BTreeMap::new();
    let mut twice = Vec::new();
    for request in requests
        .iter()
        .filter(|request| request.method.as_str() == "PUT")
    {
        let before = put.insert(request.url.path(), &request.body);
        twice.extend(before.map(|_| request.url.path()));
    }
    assert!(twice.is_empty(), "{twice:?}");
    let below = |place: &str, name: &str| {
        let names = put.iter().filter(|(path, _)| path.contains(place));
        names
            .filter(|(path, _)| path.ends_with(&format!("/{name}")))
            .map(|(_, bytes)| bytes.to_vec())
            .collect::<Vec<_>>()
    };
    for event in events {
        let (place, path) = match event["event"].as_str().unwrap() {
            "artifact" => ("/1/r1/artifacts", run.join(event["path"].as_str().unwrap())),
            "model" => (
                "/1/models/m1/artifacts/bundle",
                run.join(event["bundle"].as_str().unwrap()),
            ),
            _ => continue,
        };
        let files = match path.is_dir() {
            true => path
                .read_dir()
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect(),
            false => vec![path],
        };
        assert!(!files.is_empty());
        for file in files {
            let name = file.file_name().unwrap().to_str().unwrap();
            assert_eq!(below(place, name), [fs::read(&file).unwrap()], "{name}");
        }
    }
}
