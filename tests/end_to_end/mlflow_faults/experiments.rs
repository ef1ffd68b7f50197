//! Experiments deleted on an MLflow server, runs of folds, and local stores.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::common::{ctseg, phantoms, stderr};

/// A server whose experiment and runs are deleted while `is_deleted` is set; restoring clears it if `may_restore`.
fn server_with_deleted(is_deleted: &Arc<AtomicBool>, may_restore: bool) -> Fake {
    let state = Arc::clone(is_deleted);
    Fake::start(Box::new(move |request| {
        let is_gone = state.load(Ordering::SeqCst);
        let stage = if is_gone { "deleted" } else { "active" };
        let refused = |status: u16, code: &str, message: &str| {
            let error = json!({"error_code": code, "message": message});
            Some(ResponseTemplate::new(status).set_body_json(error))
        };
        let inactive = "must be in the 'active' state. Current state is deleted.";
        let path = request.url.path();
        let answer = match path.rsplit('/').next().unwrap_or_default() {
            "get-by-name" => {
                json!({"experiment": {"experiment_id": "1", "lifecycle_stage": stage}})
            }
            "restore" if !may_restore => {
                return refused(403, "PERMISSION_DENIED", "not allowed");
            }
            "restore" => {
                state.store(false, Ordering::SeqCst);
                json!({})
            }
            "get" => {
                let mut run = a_run();
                run["info"]["lifecycle_stage"] = json!(stage);
                json!({"run": run})
            }
            "log-batch" | "create" | "update" if is_gone && path.contains("/runs/") => {
                return refused(400, "INVALID_PARAMETER_VALUE", inactive);
            }
            _ => return None,
        };
        Some(ResponseTemplate::new(200).set_body_json(answer))
    }))
}

#[test]
fn a_deleted_experiment_is_restored_and_reported_once() {
    let is_deleted = Arc::new(AtomicBool::new(true));
    let fake = server_with_deleted(&is_deleted, true);
    let run = tempfile::tempdir().unwrap();
    let log = log_run(Some(fake.server()), run.path(), &[points(&["loss"], 1..5)]);
    let warnings = log.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("'ctseg' was deleted on http://"),
        "{warnings:?}"
    );
    assert!(warnings[0].contains("has been restored"), "{warnings:?}");
    assert_eq!(fake.count("experiments/restore"), 1);
    assert_eq!(steps(&fake, 0), [1, 2, 3, 4]);

    // Deleted during a run: refused requests are sent again.
    is_deleted.store(true, Ordering::SeqCst);
    let log = log_run(Some(fake.server()), run.path(), &[points(&["loss"], 5..9)]);
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(fake.count("experiments/restore"), 2);
    let sent: BTreeSet<u64> = steps(&fake, 0).into_iter().collect();
    assert_eq!(sent, (1..9).collect());
}

#[test]
fn an_experiment_without_restore_permission_is_requested_once() {
    let is_deleted = Arc::new(AtomicBool::new(true));
    let fake = server_with_deleted(&is_deleted, false);
    let folder = tempfile::tempdir().unwrap();
    let runs = ["a", "b", "c"].map(|name| folder.path().join("runs").join(name));
    for run in &runs {
        std::fs::create_dir_all(run).unwrap();
    }
    let log = log_run(Some(fake.server()), &runs[0], &[points(&["loss"], 1..500)]);
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for part in [
        "was deleted",
        "403: not allowed",
        "--experiment",
        "mlflow experiments restore --experiment-id 1",
    ] {
        assert!(warnings[0].contains(part), "{part}: {warnings:?}");
    }
    assert!(
        warnings[1].contains("ctseg sync") && !warnings[1].contains("deleted"),
        "{warnings:?}"
    );
    let requests = fake.requests().len();
    assert!(requests <= 3, "{requests}");

    // For any number of pending runs the server is asked once, and the table states the reason once.
    for run in &runs[1..] {
        log_run(None, run, &[points(&["loss"], 1..3)]);
    }
    let output = ctseg(folder.path(), &["sync"])
        .env("MLFLOW_TRACKING_URI", fake.uri())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.matches("was deleted").count(), 1, "{printed}");
    assert_eq!(
        printed.matches("for the same reason").count(),
        2,
        "{printed}"
    );
    assert!(fake.requests().len() <= requests + 3);
    assert_eq!(fake.count("experiments/restore"), 2);
}

#[test]
fn fold_runs_carry_the_parameters() {
    let run = tempfile::tempdir().unwrap();
    let events = run.path().join("tracking");
    std::fs::create_dir(&events).unwrap();
    let lines = [
        r#"{"at":1,"event":"begun","key":"k","name":"n","run":"r","networks":2,"process":"x"}"#,
        r#"{"at":1,"event":"parameters","values":{"folds":"2","seed":"1"}}"#,
        r#"{"at":1,"event":"metrics","network":"fold 1","step":1,"values":{"loss":0.5}}"#,
        r#"{"at":1,"event":"parameters","values":{"late":"3"}}"#,
        r#"{"at":1,"event":"ended","status":"FINISHED"}"#,
    ];
    std::fs::write(events.join("events.jsonl"), lines.join("\n") + "\n").unwrap();
    let fake = Fake::start(Box::new(|request| {
        let mut run = a_run();
        run["info"]["run_id"] = body(request)["run_name"].clone();
        is(request, "runs/create")
            .then(|| ResponseTemplate::new(200).set_body_json(json!({"run": run})))
    }));
    let after = sync_run(fake.server(), Multipart::default(), run.path());
    assert_eq!(after.outcome, sync::Outcome::All, "{after:?}");
    let of = |id: &str| {
        let requests = fake.requests();
        let batches = requests.iter().filter(|r| is(r, "log-batch")).map(body);
        let own = batches.filter(|batch| batch["run_id"] == id);
        let params = own.flat_map(|batch| batch["params"].as_array().cloned().unwrap_or_default());
        let pairs = params.map(|param| format!("{}={}", param["key"], param["value"]));
        pairs
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(" ")
            .replace('"', "")
    };
    assert_eq!(of("n"), "folds=2 late=3 seed=1");
    assert_eq!(of("n fold 1"), "fold=1 folds=2 late=3 seed=1");
}

#[test]
fn a_local_store_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(&folder.path().join("data"), 2, 0);
    let fit: &[&str] = &["fit", "--stage", "1", "--data", "data"];
    let sweep = &[
        "sweep", "--stage", "1", "--data", "data", "--vary", "seed=1",
    ];
    let predict = &["predict", "data", "-o", "out"];
    let evaluate = &["evaluate", "data", "data"];
    for (uri, command) in [
        (
            "sqlite:///mlflow.db",
            "'mlflow server --backend-store-uri sqlite:///mlflow.db'",
        ),
        ("./mlruns", "mlflow server --backend-store-uri ./mlruns'"),
        (
            "file:///data/mlruns",
            "mlflow server --backend-store-uri file:///data/mlruns'",
        ),
    ] {
        for arguments in [fit, sweep, predict, evaluate, &["sync"]] {
            let output = ctseg(folder.path(), arguments)
                .env("MLFLOW_TRACKING_URI", uri)
                .output()
                .unwrap();
            let log = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {log}");
            assert!(log.contains(command), "{arguments:?}: {log}");
            assert_eq!(log.matches(uri).count(), 2, "{log}");
        }
    }
    for made in ["runs", "model", "out"] {
        assert!(!folder.path().join(made).exists(), "{made}");
    }
}
