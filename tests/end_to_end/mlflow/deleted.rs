//! Experiments that are deleted on the server during runs.

use super::*;

/// Deletes the experiment of the run in this folder.
fn delete_experiment_of(test: &TestServer, run: &Path) {
    let delivered = run.join("tracking/delivered.json");
    wait_for("nothing was delivered", || delivered.exists());
    let text = std::fs::read_to_string(delivered).unwrap();
    let known: Value = serde_json::from_str(&text).unwrap();
    let id = &known["servers"][test.uri()]["experiment_id"];
    test.post(
        "experiments/delete",
        &serde_json::json!({ "experiment_id": id }),
    );
}

/// An experiment that is deleted between two runs, and again during the second one.
pub(super) fn a_deleted_experiment_is_restored(test: &TestServer) {
    let folder = tempfile::tempdir().unwrap();
    let (log, observer) = CapturedLog::new();
    let log_run = |name: &str, between: &dyn Fn(&Path)| {
        let run = folder.path().join(name);
        std::fs::create_dir_all(&run).unwrap();
        let mlflow = Mlflow::new(
            Some(server(&test.uri())),
            Some("deleted".to_owned()),
            None,
            &observer,
        );
        let mlflow = mlflow.unwrap();
        let identity = RunIdentity {
            name,
            folder: &run,
            parent: None,
        };
        let metrics = |steps: std::ops::RangeInclusive<u64>| Event::Metrics {
            network: None,
            points: steps.map(|step| point(step, &[("loss", 0.5)])).collect(),
        };
        mlflow.run_started(&identity).unwrap();
        mlflow.log_event(&metrics(1..=3)).unwrap();
        between(&run);
        mlflow.log_event(&metrics(4..=6)).unwrap();
        mlflow.run_ended(&identity, &Outcome::Finished).unwrap();
        run
    };
    let delete = |run: &Path| delete_experiment_of(test, run);
    let first = log_run("first", &|_| {});
    delete(&first);
    log_run("second", &delete);
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .all(|line| line.contains("has been restored")),
        "{warnings:?}"
    );
    let content = test.content();
    assert_eq!(content["experiments"]["deleted"]["stage"], "active");
    for name in ["first", "second"] {
        let run = run_named(&content, "deleted", name);
        assert_eq!(
            (&run["stage"], &run["status"]),
            (&"active".into(), &"FINISHED".into())
        );
        let steps: Vec<u64> = history(run, "loss").iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (1..=6).collect::<Vec<_>>());
    }
}
