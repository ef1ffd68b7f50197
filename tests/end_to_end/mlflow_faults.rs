//! Faults between runs and an MLflow server: nothing is lost, and nothing is retried forever.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::captured_log::CapturedLog;
use crate::common::fake_mlflow::{Fake, Override, a_run, body, is, with_artifacts_at};
use crate::common::mlflow::server;
use crate::common::runs::wait_for;
use ctseg_base::progress::Silent;
use ctseg_core::run::tracker::{Event, Outcome, Point, RunIdentity, Tracker};
use ctseg_http::login::Credentials;
use ctseg_tracking::mlflow::Mlflow;
use ctseg_tracking::mlflow::artifacts::Multipart;
use ctseg_tracking::mlflow::delivery::Link;
use ctseg_tracking::mlflow::settings::Server;
use ctseg_tracking::mlflow::sync;
use ctseg_tracking::mlflow::sync::sync;
use serde_json::json;
use wiremock::{Request, ResponseTemplate};

mod experiments;
mod files;
mod logins;

/// Answers the first `times` requests for `path_end` with `answer`.
fn first_requests(times: usize, path_end: &'static str, answer: ResponseTemplate) -> Box<Override> {
    let seen = AtomicUsize::new(0);
    Box::new(move |request| {
        let now = is(request, path_end) && seen.fetch_add(1, Ordering::SeqCst) < times;
        now.then(|| answer.clone())
    })
}

fn points(names: &[&str], steps: std::ops::Range<u64>) -> Event {
    let values = |step: u64| {
        names
            .iter()
            .map(move |name| ((*name).to_owned(), step as f64))
    };
    let point = |step: u64| Point {
        step,
        time_ms: 1_760_000_000_000,
        values: values(step).collect(),
    };
    Event::Metrics {
        network: None,
        points: steps.map(point).collect(),
    }
}

/// Logs `events` of a run in `folder` while they are sent to `server`; returns the captured log.
fn log_run(server: Option<Server>, folder: &Path, events: &[Event]) -> Arc<CapturedLog> {
    let (log, observer) = CapturedLog::new();
    let mlflow = Mlflow::new(server, None, None, &observer).unwrap();
    let identity = RunIdentity {
        name: "a run",
        folder,
        parent: None,
    };
    mlflow.run_started(&identity).unwrap();
    for event in events {
        mlflow.log_event(event).unwrap();
    }
    mlflow.run_ended(&identity, &Outcome::Finished).unwrap();
    log
}

fn sync_run(server: Server, parts: Multipart, folder: &Path) -> sync::SyncResult {
    let link = Arc::new(Link::open(server).unwrap().with_multipart(parts));
    sync(&link, folder, &Silent)
}

/// The steps of `loss` that arrived, without the first `failed` requests.
fn steps(fake: &Fake, failed: usize) -> Vec<u64> {
    let requests = fake.requests();
    let batches = requests.iter().filter(|r| is(r, "log-batch")).skip(failed);
    let metrics = batches.flat_map(|request| {
        let metrics = body(request)["metrics"].as_array().cloned();
        metrics.unwrap_or_default()
    });
    metrics
        .filter(|metric| metric["key"] == "loss")
        .map(|metric| metric["step"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_busy_server_is_retried_after_the_time_it_names() {
    let busy = ResponseTemplate::new(429).insert_header("Retry-After", "20");
    let fake = Fake::start(first_requests(1, "log-batch", busy));
    let run = tempfile::tempdir().unwrap();
    let log = log_run(
        Some(fake.server()),
        run.path(),
        &[points(&["loss"], 1..2501)],
    );
    // The end of the run does not wait for Retry-After.
    let warnings = log.warnings();
    assert!(warnings[0].contains("429"), "{warnings:?}");
    assert!(warnings[1].contains("ctseg sync"), "{warnings:?}");
    let after = sync_run(fake.server(), Multipart::default(), run.path());
    assert_eq!(after.outcome, sync::Outcome::All);
    assert_eq!(steps(&fake, 1), (1..2501).collect::<Vec<_>>());
}

#[test]
fn a_recovered_server_receives_everything_during_the_run() {
    let fake = Fake::start(first_requests(2, "log-batch", ResponseTemplate::new(503)));
    let run = tempfile::tempdir().unwrap();
    let (log, observer) = CapturedLog::new();
    let mlflow = Mlflow::new(Some(fake.server()), None, None, &observer).unwrap();
    let identity = RunIdentity {
        name: "a run",
        folder: run.path(),
        parent: None,
    };
    mlflow.run_started(&identity).unwrap();
    mlflow.log_event(&points(&["loss"], 1..11)).unwrap();
    wait_for("the server is not back", || {
        log.infos()
            .iter()
            .any(|line| line.contains("responds again"))
    });
    mlflow.log_event(&points(&["loss"], 11..21)).unwrap();
    mlflow.run_ended(&identity, &Outcome::Finished).unwrap();
    assert_eq!(log.warnings().len(), 1, "{:?}", log.warnings());
    assert_eq!(steps(&fake, 2), (1..21).collect::<Vec<_>>());
}

#[test]
fn a_run_created_without_an_answer_is_found_again() {
    let created = AtomicUsize::new(0);
    let fake = Fake::start(Box::new(move |request| {
        if is(request, "runs/create") {
            created.fetch_add(1, Ordering::SeqCst);
            return Some(ResponseTemplate::new(500));
        }
        let known = is(request, "runs/search") && created.load(Ordering::SeqCst) > 0;
        known.then(|| ResponseTemplate::new(200).set_body_json(json!({"runs": [a_run()]})))
    }));
    let run = tempfile::tempdir().unwrap();
    log_run(None, run.path(), &[points(&["loss"], 1..3)]);
    let after = sync_run(fake.server(), Multipart::default(), run.path());
    assert_eq!(after.outcome, sync::Outcome::All);
    assert_eq!(fake.count("runs/create"), 1);
    assert_eq!(steps(&fake, 0), [1, 2]);
}

#[test]
fn a_rejected_login_is_not_retried() {
    let closed = ResponseTemplate::new(401).set_body_string("You are not\nauthenticated.");
    let fake = Fake::start(Box::new(move |_| Some(closed.clone())));
    let run = tempfile::tempdir().unwrap();
    let server = Server {
        credentials: Credentials::Token("s3cret".to_owned()),
        ..fake.server()
    };
    let log = log_run(Some(server.clone()), run.path(), &[points(&["loss"], 1..3)]);
    let warnings = log.warnings();
    assert!(
        warnings[0].contains("401") && warnings[0].contains("MLFLOW_TRACKING_TOKEN"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("ctseg sync"), "{warnings:?}");
    assert_eq!(fake.requests().len(), 1);
    let after = sync_run(server, Multipart::default(), run.path());
    let sync::Outcome::ServerFailed(why) = &after.outcome else {
        panic!("{after:?}");
    };
    assert!(why.contains("401") && !why.contains("s3cret"), "{why}");
    assert_eq!(fake.requests().len(), 2);
    let sent = &fake.requests()[1];
    assert_eq!(sent.headers["authorization"], "Bearer s3cret");
}

#[test]
fn a_server_other_than_mlflow_is_reported() {
    let login = ResponseTemplate::new(200).set_body_string("<html>Please log in</html>");
    let onward = ResponseTemplate::new(302).insert_header("Location", "https://login.example/");
    for (answer, expected) in [(login, "Please log in"), (onward, "login.example")] {
        let fake = Fake::start(Box::new(move |_| Some(answer.clone())));
        let run = tempfile::tempdir().unwrap();
        let log = log_run(Some(fake.server()), run.path(), &[]);
        let warnings = log.warnings();
        assert!(warnings[0].contains(expected), "{warnings:?}");
        assert_eq!(fake.requests().len(), 1);
    }
}

#[test]
fn a_hanging_server_does_not_block_the_run() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    // Connections wait in the listener's queue and are never answered.
    let run = tempfile::tempdir().unwrap();
    let hanging = Server {
        timeout: Duration::from_millis(300),
        ..server(&uri)
    };
    let log = log_run(Some(hanging), run.path(), &[points(&["loss"], 1..3)]);
    let warnings = log.warnings();
    assert!(warnings[0].contains("timed out"), "{warnings:?}");
    assert!(warnings[1].contains("ctseg sync"), "{warnings:?}");
}

#[test]
fn a_rejected_metric_does_not_affect_the_others() {
    let fake = Fake::start(Box::new(|request| {
        let text = String::from_utf8_lossy(&request.body).into_owned();
        let refused = json!({"error_code": "INVALID_PARAMETER_VALUE", "message": "no bad ones"});
        (is(request, "log-batch") && text.contains("bad"))
            .then(|| ResponseTemplate::new(400).set_body_json(refused))
    }));
    let run = tempfile::tempdir().unwrap();
    let events = [
        points(&["bad", "good"], 1..4),
        Event::Tags(vec![("host".to_owned(), "here".to_owned())]),
    ];
    log_run(None, run.path(), &events);
    let after = sync_run(fake.server(), Multipart::default(), run.path());
    assert_eq!(after.outcome, sync::Outcome::All);
    assert_eq!((after.sent.metrics, after.sent.left_out), (3, 3));
    assert!(
        after.sent.notes[0].contains("'bad'") && after.sent.notes[0].contains("no bad ones"),
        "{:?}",
        after.sent.notes
    );
}

#[test]
fn a_run_deleted_on_the_server_is_reported_once() {
    let fake = Fake::start(Box::new(|request| {
        let mut gone = a_run();
        gone["info"]["lifecycle_stage"] = json!("deleted");
        match request.url.path() {
            path if path.ends_with("log-batch") => Some(ResponseTemplate::new(400)),
            path if path.ends_with("runs/get") => {
                Some(ResponseTemplate::new(200).set_body_json(json!({"run": gone})))
            }
            _ => None,
        }
    }));
    let run = tempfile::tempdir().unwrap();
    let log = log_run(
        Some(fake.server()),
        run.path(),
        &[points(&["loss"], 1..500)],
    );
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("deleted"), "{warnings:?}");
    assert_eq!(fake.count("log-batch"), 1);
}

#[test]
fn batches_are_bounded() {
    let run = tempfile::tempdir().unwrap();
    log_run(None, run.path(), &[points(&["a", "b"], 1..5001)]);
    let fake = Fake::start(Box::new(|_| None));
    let after = sync_run(fake.server(), Multipart::default(), run.path());
    assert_eq!(after.sent.metrics, 10_000);
    let requests = fake.requests();
    let batches = requests.iter().filter(|request| is(request, "log-batch"));
    let sizes: Vec<(usize, usize)> = batches
        .map(|request| {
            let metrics = body(request)["metrics"].as_array().map_or(0, Vec::len);
            (metrics, request.body.len())
        })
        .collect();
    assert!(
        sizes.len() >= 10
            && sizes
                .iter()
                .all(|(count, bytes)| *count <= 1000 && *bytes < 1_000_000),
        "{sizes:?}"
    );
}
