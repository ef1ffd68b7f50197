//! Everything that trackers receive from a whole run.

use super::*;
use crate::common::compute;

#[test]
fn trackers_receive_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, curves) = (Recording::default(), Curves::default());
    let set = [
        "structures=each",
        "training.epochs=2",
        "tracking.checkpoints=best",
    ];
    let trackers: [&dyn Tracker; 2] = [&curves, &recording];
    let summary = fit_small(folder.path(), &set, &trackers, &recording.stop, &Silent).unwrap();
    let run = summary.run.clone();
    let calls = recording.calls();
    assert_eq!(calls.first(), Some(&Call::Started(run.clone())));
    assert_eq!(calls.last(), Some(&Call::Ended(Outcome::Finished)));
    let events = recording.events();
    let bundle = Bundle::open(&summary.model).unwrap();
    let names: Vec<String> = bundle
        .structures()
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_parameters_and_tags(&events, &bundle);
    assert_epochs(&recording, &run, &names);
    assert_steps(&recording);
    assert_figures(&recording, &summary);
    assert_datasets(&events, &bundle);
    assert_artifacts(&events, &run);
    let model = events.into_iter().rev().find_map(|event| match event {
        Event::Model(made) => Some(made),
        _ => None,
    });
    let model = model.unwrap();
    assert_eq!((model.sha256, model.structures), (bundle.sha256(), names));
    assert_eq!(
        (model.name.as_str(), model.spacing_mm),
        ("phantoms", vec![14.0; 3])
    );
}

fn assert_parameters_and_tags(events: &[Event], bundle: &Bundle) {
    let Some(Event::Parameters(parameters)) = events.first() else {
        panic!("{:?}", events.first());
    };
    for (name, value) in [
        ("training.epochs", "2"),
        ("network.widths", "[4,8]"),
        ("training.augmentation.enabled", "false"),
        ("seed", "1"),
    ] {
        assert!(
            parameters.contains(&(name.to_owned(), value.to_owned())),
            "{name}: {parameters:?}"
        );
    }
    let tags: BTreeMap<String, String> = events
        .iter()
        .filter_map(|event| match event {
            Event::Tags(tags) => Some(tags.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    for (name, value) in [
        ("mlflow.user", "ada".to_owned()),
        ("ctseg.stage", "1".to_owned()),
        ("ctseg.folds", "0,1".to_owned()),
        ("ctseg.dataset", "phantoms".to_owned()),
        ("ctseg.engine", compute().to_string()),
        ("ctseg.model_sha256", bundle.sha256()),
    ] {
        assert_eq!(tags.get(name), Some(&value), "{name}");
    }
}

/// Fails unless epochs are logged as in `metrics.jsonl`.
fn assert_epochs(recording: &Recording, run: &Path, names: &[String]) {
    assert_eq!(recording.epochs().len(), 4);
    let logged = recording.epochs().into_iter();
    let logged: Vec<_> = logged
        .map(|(network, epoch, _, points)| (network, epoch, points))
        .collect();
    assert_eq!(logged, written(run, names));
    let (_, _, first) = &logged[0];
    for name in [
        "loss",
        "learning_rate",
        "validation_precision",
        "training_recall",
        "training_iou",
        "validation_accuracy",
        "training_accuracy",
    ] {
        assert!(first.contains_key(name), "{name}: {first:?}");
    }
}

fn assert_steps(recording: &Recording) {
    for network in ["fold 0", "fold 1"] {
        let mut epochs = recording.epochs().into_iter();
        let last = epochs.rfind(|epoch| epoch.0 == network).unwrap();
        let points = recording.points(Some(network));
        assert_steps_are_whole(&points, last.2);
        let names: Vec<&str> = points[0]
            .values
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "step/loss",
                "step/learning_rate",
                "step/gradient_norm",
                "step/data_wait_share"
            ]
        );
        let rate = last.3["learning_rate"];
        assert_eq!(points.last().unwrap().values[1].1, rate);
        assert!(
            points
                .iter()
                .all(|point| (0.0..=1.0).contains(&point.values[3].1))
        );
    }
}

/// The numbers of the whole run.
fn assert_figures(recording: &Recording, summary: &FitSummary) {
    let figures = recording.points(None);
    assert_eq!((figures.len(), figures[0].step), (1, 0));
    let figures: BTreeMap<_, _> = figures[0].values.iter().cloned().collect();
    let evaluation = summary.out_of_fold.as_ref().unwrap().evaluation.as_ref();
    let evaluation = evaluation.unwrap();
    assert_eq!(
        figures.get("out_of_fold/dice").copied(),
        evaluation.mean("dice")
    );
    assert_eq!(
        figures["held_out_roi/mean_recall"],
        summary.roi.unwrap().mean_recall.unwrap()
    );
}

fn assert_datasets(events: &[Event], bundle: &Bundle) {
    let mut contexts = BTreeMap::new();
    for event in events {
        if let Event::Dataset(used) = event {
            assert_eq!((used.digest.len(), used.name.as_str()), (64, "phantoms"));
            contexts.insert(used.context.as_str(), (used.digest.clone(), used.cases));
        }
    }
    assert_eq!(contexts["training"].1, 4);
    assert_eq!(contexts["validation"].1, 4);
    assert_ne!(contexts["training"].0, contexts["validation"].0);
    assert_eq!(
        contexts["training"].0,
        bundle.stage(1).unwrap().data_fingerprint
    );
}

fn assert_artifacts(events: &[Event], run: &Path) {
    let artifacts = events.iter().filter_map(|event| match event {
        Event::Artifact { path, to } => {
            let path = path.strip_prefix(run).unwrap().to_str().unwrap();
            Some((path.to_owned(), to.clone()))
        }
        _ => None,
    });
    let artifacts: Vec<(String, String)> = artifacts.collect();
    for (path, to) in [
        ("recipe.toml", ""),
        ("network.txt", ""),
        ("checkpoints/fold_0/best.safetensors", "checkpoints/fold_0"),
        ("checkpoints/fold_1/best.safetensors", "checkpoints/fold_1"),
        ("plots", ""),
        ("metrics.jsonl", ""),
        ("diagnosis.json", ""),
        ("out_of_fold/summary.json", "out_of_fold"),
        ("out_of_fold/metrics.csv", "out_of_fold"),
        ("log.txt", ""),
    ] {
        assert!(
            artifacts.contains(&(path.to_owned(), to.to_owned())),
            "{path}: {artifacts:?}"
        );
    }
    for picture in ["loss.png", "dice.png", "worst_case.png", "best_case.png"] {
        assert!(run.join("plots").join(picture).exists(), "{picture}");
    }
    let layers = std::fs::read_to_string(run.join("network.txt")).unwrap();
    assert!(layers.contains("multiply-adds"), "{layers}");
}
