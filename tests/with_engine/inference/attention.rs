//! A residual network with attention gates, from recipe to attention pictures, through the binary.

use crate::common;
use ctseg_report::pictures::Picture;

use crate::common::{phantoms, run, stderr};

const SMALL: [&str; 16] = [
    "--set",
    "network.widths=[4, 8, 8]",
    "--set",
    "network.blocks=[1, 1, 1]",
    "--set",
    "network.strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]]",
    "--set",
    "spacing_mm=[14.0, 14.0, 14.0]",
    "--set",
    "folds=2",
    "--set",
    "training.patch_size=[8, 16, 16]",
    "--set",
    "region=whole",
    "--set",
    "prior=false",
];

#[test]
fn a_residual_network_with_gates_trains_predicts_and_draws_attention() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(folder.path(), 4, 0);
    let data = folder.path().to_str().unwrap();
    let mut fit = vec!["fit", "--stage", "resenc", "--data", data, "--epochs", "2"];
    fit.extend(SMALL);
    fit.extend(["--set", "network.attention=true"]);
    run(folder.path(), &fit, 0);

    let image = std::fs::read_dir(folder.path().join("images")).unwrap();
    let image = image.map(|entry| entry.unwrap().path()).min().unwrap();
    let image = image.to_str().unwrap();
    run(
        folder.path(),
        &["predict", image, "-o", "out", "--attention"],
        0,
    );
    let mut pictures: Vec<_> = std::fs::read_dir(folder.path().join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .collect();
    pictures.sort();
    assert_eq!(pictures.len(), 2, "one per gate: {pictures:?}");
    for (level, path) in pictures.iter().enumerate() {
        assert!(
            path.to_str()
                .unwrap()
                .ends_with(&format!("_attention_{level}.png"))
        );
        let picture = Picture::read_png(path).unwrap();
        let coloured = picture
            .pixels()
            .filter(|pixel| pixel[0] != pixel[2])
            .count();
        assert!(coloured > 1000, "{path:?}: a map over CT");
    }

    let output = run(folder.path(), &["inspect", "model"], 0);
    let text = String::from_utf8(output.stdout).unwrap();
    for layer in [
        "stem.0",
        "encoder.2.0.layers.1",
        "gates.1.map",
        "multiply",
        "mean_pool",
    ] {
        assert!(text.contains(layer), "{layer}: {text}");
    }
    assert!(text.contains("multiples of [2, 4, 4]"), "{text}");
}

#[test]
fn attention_without_gates_is_refused_with_the_setting_to_use() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 1, 0);
    common::random_model(&folder.path().join("model"), &[]);
    let output = run(
        folder.path(),
        &["predict", "data/images", "-o", "out", "--attention"],
        1,
    );
    let log = stderr(&output);
    assert!(log.contains("network.attention = true"), "{log}");
}
