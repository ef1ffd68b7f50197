//! PyTorch files, valid and hostile (scripts/golden/make_torch_file.py).

use std::path::PathBuf;

use crate::common::{run, stderr};
use ctseg_engine::torch_checkpoint::TorchFile;
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/torch")
        .join(name)
}

#[test]
fn weights_and_settings_match_those_saved_by_pytorch() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap();
    let mut file = TorchFile::open(&golden("weights.pth")).unwrap();
    let weights = file.root().get("network_weights").unwrap();
    let stored: Vec<_> = weights
        .entries()
        .map(|(name, tensor)| {
            (
                name.text().unwrap().to_owned(),
                file.tensor(tensor).unwrap(),
            )
        })
        .collect();
    let settings = |name: &str| file.root().get(name).unwrap().to_json().unwrap();
    assert_eq!(settings("current_epoch"), 1000);
    assert_eq!(settings("_best_ema"), 0.8125);
    assert_eq!(
        settings("logging"),
        json!({"losses": [0.5, 0.25, null], "lrs": [3, true, null]})
    );
    assert_eq!(
        settings("inference_allowed_mirroring_axes"),
        json!([0, 1, 2])
    );
    let arguments = settings("init_args");
    assert_eq!(arguments["device"], "cuda");
    assert_eq!(
        arguments["plans"],
        json!({"spacing": [3.0, 1.0, 1.0], "keys": {"1": -5}})
    );
    assert_eq!(stored.len(), expected.as_object().unwrap().len());
    for (name, tensor) in stored {
        let read = file.read(&tensor).unwrap();
        let expected_tensor = &expected[&name];
        assert_eq!(json!(read.shape), expected_tensor["shape"], "{name}");
        let values: Vec<f64> = serde_json::from_value(expected_tensor["values"].clone()).unwrap();
        assert_eq!(read.values.len(), values.len(), "{name}");
        assert!(
            read.values.iter().zip(values).all(|(a, b)| *a == b as f32),
            "{name}"
        );
    }
}

/// Opens a file and reads all of its tensors, which must fail; returns the error.
fn refused(name: &str) -> String {
    let path = golden(name);
    let read = || {
        let mut file = TorchFile::open(&path)?;
        let weights = file.root().get("network_weights").unwrap();
        let stored: Result<Vec<_>, _> = weights
            .entries()
            .map(|(_, tensor)| file.tensor(tensor))
            .collect();
        stored?
            .iter()
            .try_for_each(|tensor| file.read(tensor).map(drop))
    };
    let error = read().expect_err(name).to_string();
    assert!(error.contains(name) && !error.contains('\n'), "{error}");
    error
}

#[test]
fn hostile_files_are_refused_with_the_reason() {
    for (name, why) in [
        ("hostile_call.pth", "system, which is not allowed"),
        ("hostile_size.pth", "in a storage of 6"),
        ("hostile_storage.pth", "expected at least"),
        ("hostile_far.pth", "in a storage of 4611686018427387904"),
        ("hostile_stride.pth", "non-contiguous"),
        ("hostile_itself.pth", "found something else"),
        ("hostile_overlap.pth", "overlap"),
        ("hostile_bomb.pth", "is compressed"),
        ("hostile_end.pth", "not a zip archive"),
    ] {
        let log = refused(name);
        assert!(log.contains(why), "{log}");
    }
    assert!(!std::path::Path::new("/tmp/this-must-not-be").exists());
}

#[test]
fn inspect_shows_what_a_checkpoint_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = golden("weights.pth");
    let shown = run(folder.path(), &["inspect", path.to_str().unwrap()], 0);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in ["decoder.encoder.weight", "current_epoch: 1000", "spacing"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let hostile = golden("hostile_call.pth");
    let output = run(folder.path(), &["inspect", hostile.to_str().unwrap()], 1);
    assert!(stderr(&output).contains("system"), "{}", stderr(&output));
}

/// 480 bytes of lists, each of which contains the previous one twice.
#[test]
fn exponentially_large_settings_are_refused_in_one_line() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endless.pth");
    let mut pickle = b"\x80\x02}(X\x01\x00\x00\x00w".to_vec();
    // _rebuild_tensor_v2(('storage', FloatStorage, '0', 'cpu', 4), 0, (4,), (1,), False, {})
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage");
    pickle.extend(b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ");
    pickle.extend(b"K\x00K\x04\x85K\x01\x85\x89}tRX\x01\x00\x00\x00sK\x01q\x00");
    for level in 1..60u8 {
        pickle.extend([b'0', b']', b'(', b'h', level - 1, b'h', level - 1]);
        pickle.extend([b'e', b'q', level]);
    }
    pickle.extend(b"u.");
    let mut writer = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [
        ("a/data.pkl", pickle.as_slice()),
        ("a/data/0", &[0; 16][..]),
    ] {
        writer.start_file(name, stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap();
    let log = stderr(&run(folder.path(), &["inspect", "endless.pth"], 1));
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.contains("endless.pth") && log.contains("exceed what"),
        "{log}"
    );
}
