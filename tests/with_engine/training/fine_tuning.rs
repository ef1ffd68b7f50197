//! Initialisation from another model's weights.

use std::path::Path;

use crate::common::{SMALL, phantoms, run, stderr};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::run::checkpoint::Checkpoint;

/// The log of a short fit of one fold, with the arguments in `line`.
fn short_fit(folder: &Path, data: &Path, line: &str, code: i32) -> String {
    let data = data.to_str().unwrap();
    let first = [
        "fit", "--stage", "single", "--data", data, "--fold", "0", "--epochs", "1",
    ];
    let more: Vec<&str> = line.split(' ').collect();
    stderr(&run(folder, &[&first[..], &SMALL, &more].concat(), code))
}

#[test]
fn fine_tuning_initialises_matching_layers_and_reinitialises_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let data = phantoms(folder.path(), 4, 0);
    let fit = |line: &str, code: i32| short_fit(folder.path(), &data, line, code);
    let weights = |model: &str| {
        let bundle = Bundle::open(&folder.path().join(model)).unwrap();
        bundle.stage_weights(2).unwrap()
    };
    fit("--model first", 0);
    let first = weights("first");

    // With a learning rate near 0 the published weights equal the initial ones.
    let log = fit(
        "--model second --from first --set training.optimiser.learning_rate=1e-12 \
         --set training.optimiser.weight_decay=0",
        0,
    );
    assert!(log.contains("initialised all"), "{log}");
    let second = weights("second");
    let difference = |name: &str| {
        let pairs = first[0][name].values.iter().zip(&second[0][name].values);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(difference("head.weight") < 1e-6);

    // One more input channel: the first layer is re-initialised, and the run says so.
    let wider = "--model third --from first --set windows_hu=[[-160,240],[-200,1200],[-1000,0]]";
    let log = fit(wider, 0);
    assert!(
        log.contains("re-initialised: encoder.0.0.conv.weight ("),
        "{log}"
    );

    // Other structures: so is the head.
    let text = std::fs::read_to_string(&data)
        .unwrap()
        .replace("liver", "hepar");
    let renamed = folder.path().join("renamed.toml");
    std::fs::write(&renamed, text).unwrap();
    let line = "--model fourth --from first --runs renamed-runs";
    let log = short_fit(folder.path(), &renamed, line, 0);
    assert!(
        log.contains("re-initialised: head.bias, head.weight"),
        "{log}"
    );

    // Another network, or no model: refused, and no run folder is left.
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
