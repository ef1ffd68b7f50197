//! Initialisation from another model's weights.

use std::path::Path;

use crate::common::{SMALL, phantoms, run, stderr};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::run::checkpoint::Checkpoint;

/// What a short fit of one fold says, with the words of `line`.
fn short_fit(folder: &Path, data: &Path, line: &str, code: i32) -> String {
    let data = data.to_str().unwrap();
    let first = [
        "fit", "--stage", "single", "--data", data, "--fold", "0", "--epochs", "1",
    ];
    let more: Vec<&str> = line.split(' ').collect();
    stderr(&run(folder, &[&first[..], &SMALL, &more].concat(), code))
}

#[test]
fn a_model_is_trained_further_and_what_does_not_fit_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let data = phantoms(folder.path(), 4, 0);
    let fit = |line: &str, code: i32| short_fit(folder.path(), &data, line, code);
    let weights = |model: &str| {
        let bundle = Bundle::open(&folder.path().join(model)).unwrap();
        bundle.stage_weights(2).unwrap()
    };
    fit("--model first", 0);
    let first = weights("first");

    // A rate of next to nothing: what is published is what it began with.
    let said = fit(
        "--model second --from first --set training.optimiser.learning_rate=1e-12 \
         --set training.optimiser.weight_decay=0",
        0,
    );
    assert!(said.contains("initialised all"), "{said}");
    let second = weights("second");
    let apart = |name: &str| {
        let pairs = first[0][name].values.iter().zip(&second[0][name].values);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(apart("head.weight") < 1e-6);

    // One more input channel: the first layer begins anew, and the run says so.
    let wider = "--model third --from first --set windows_hu=[[-160,240],[-200,1200],[-1000,0]]";
    let said = fit(wider, 0);
    assert!(
        said.contains("re-initialised: encoder.0.0.conv.weight ("),
        "{said}"
    );

    // Other structures: so does the head.
    let text = std::fs::read_to_string(&data)
        .unwrap()
        .replace("liver", "hepar");
    let renamed = folder.path().join("renamed.toml");
    std::fs::write(&renamed, text).unwrap();
    let line = "--model fourth --from first --runs renamed-runs";
    let said = short_fit(folder.path(), &renamed, line, 0);
    assert!(
        said.contains("re-initialised: head.bias, head.weight"),
        "{said}"
    );

    // Another network, and no model at all: refused, and no run folder is left.
    let runs = || {
        std::fs::read_dir(folder.path().join("runs"))
            .unwrap()
            .count()
    };
    let before = runs();
    let missing = fit("--model fifth --from nowhere", 1);
    assert!(missing.contains("nowhere"), "{missing}");
    assert_eq!(runs(), before);
    let other = fit("--model fifth --from first --set network.widths=[5,7]", 1);
    assert!(other.contains("tensors of --from match"), "{other}");
}

#[test]
fn all_folds_are_trained_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let data = phantoms(folder.path(), 4, 0);
    let arguments = [
        &[
            "fit",
            "--stage",
            "single",
            "--data",
            data.to_str().unwrap(),
            "--fold",
            "all",
            "--epochs",
            "1",
        ][..],
        &SMALL[..],
    ]
    .concat();
    run(folder.path(), &arguments, 0);
    let bundle = Bundle::open(&folder.path().join("model")).unwrap();
    assert_eq!(bundle.stage_weights(2).unwrap().len(), 2);
    let runs = std::fs::read_dir(folder.path().join("runs")).unwrap();
    let run = runs.map(|entry| entry.unwrap().path()).next().unwrap();
    for fold in 0..2 {
        let last = run.join(format!("checkpoints/fold_{fold}/last.safetensors"));
        assert!(Checkpoint::load(&last).is_ok());
    }
}
