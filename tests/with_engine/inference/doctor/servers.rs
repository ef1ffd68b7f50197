//! MLflow servers that are down, hang, refuse or are not MLflow; a wrong clock; pending uploads.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use wiremock::matchers::{any, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::common::mlflow::{TestServer, free_port};
use super::{Report, assert_contains, doctor};

/// Runs doctor in `folder` with this server and the fastest engine to check.
fn with_server(folder: &Path, uri: &str) -> Report {
    let mut command = doctor(folder, &["--device", "flex"]);
    Report::run(command.env("MLFLOW_TRACKING_URI", uri))
}

/// A server that answers every request with the text `response`.
fn answering(response: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(response.as_bytes());
        }
    });
    uri
}

#[test]
fn an_unreachable_server_is_a_fault_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let closed = format!("http://127.0.0.1:{}", free_port());
    let report = with_server(folder.path(), &closed);
    let text = report.only("MLflow", "fault");
    assert_contains(&text, &[&closed, "refused", "check the port", "ctseg sync"]);
    report.assert_faults(&["MLflow"]);
    let text =
        with_server(folder.path(), "http://no-such-host.invalid:5000").only("MLflow", "fault");
    assert_contains(
        &text,
        &[
            "no-such-host.invalid",
            "host name cannot be resolved",
            "/etc/resolv.conf",
        ],
    );
    let text = with_server(folder.path(), "sqlite:///mlflow.db").only("MLflow", "fault");
    assert_contains(
        &text,
        &[
            "expected a server's address",
            "'mlflow server --backend-store-uri sqlite:///mlflow.db'",
        ],
    );
}

#[test]
fn a_server_that_never_answers_times_out() {
    let folder = tempfile::tempdir().unwrap();
    // The kernel accepts connections; no one reads them.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let start = Instant::now();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let text = with_server(folder.path(), &uri).only("MLflow", "fault");
    assert_contains(&text, &["timed out", "a firewall or a hanging server"]);
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn refusals_and_pages_of_other_servers_are_distinguished() {
    let folder = tempfile::tempdir().unwrap();
    for (response, expected) in [
        (
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno",
            ["answers 401", "user, password or token"],
        ),
        (
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 31\r\nconnection: close\r\n\r\nInvalid Host header - rebinding?",
            ["answers 403", "--allowed-hosts"],
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            ["answers 502", "see its log"],
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 15\r\nconnection: close\r\n\r\n<!DOCTYPE html>",
            ["is not an MLflow server", "that of the tracking server"],
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: https://login.example.org/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            ["https://login.example.org/", "that of the tracking server"],
        ),
    ] {
        let text = with_server(folder.path(), &answering(response)).only("MLflow", "fault");
        assert_contains(&text, &expected);
    }
}

#[test]
fn a_proxy_is_named_without_its_login() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = format!("http://ann:s3cret@127.0.0.1:{}", free_port());
    let mut command = doctor(folder.path(), &["--device", "flex"]);
    command
        .env("MLFLOW_TRACKING_URI", "http://tracking.example.org:5000")
        .env("HTTP_PROXY", &proxy);
    let text = Report::run(&mut command).only("MLflow", "fault");
    assert_contains(
        &text,
        &[
            "HTTP_PROXY=http://127.0.0.1:",
            "add it to NO_PROXY: tracking.example.org",
        ],
    );
    assert!(!text.contains("s3cret"), "{text}");
}

/// A mock MLflow server whose clock is ahead by `ahead_seconds`.
fn fake(ahead_seconds: i64) -> (MockServer, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let at = jiff::Timestamp::from_second(now.as_secs() as i64 + ahead_seconds).unwrap();
    let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let server = runtime.block_on(async {
        let server = MockServer::start().await;
        let version = ResponseTemplate::new(200)
            .set_body_string("3.6.0")
            .insert_header("date", date.as_str());
        Mock::given(path("/version"))
            .respond_with(version)
            .mount(&server)
            .await;
        let missing =
            json!({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"});
        let missing = ResponseTemplate::new(404).set_body_json(missing);
        Mock::given(any())
            .respond_with(missing)
            .mount(&server)
            .await;
        server
    });
    (server, runtime)
}

#[test]
fn a_wrong_clock_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    for (ahead, state, words) in [
        (0, "ok", "within 2 s"),
        (1200, "warning", " s behind the MLflow server's"),
        (-1200, "warning", " s ahead of the MLflow server's"),
    ] {
        let (server, runtime) = fake(ahead);
        let report = with_server(folder.path(), &server.uri());
        assert_contains(&report.only("clock", state), &[words]);
        assert_contains(
            &report.only("MLflow", "note"),
            &["3.6.0", "experiment 'ctseg' does not exist yet"],
        );
        report.assert_faults(&[]);
        let requests = runtime.block_on(server.received_requests()).unwrap();
        assert!(
            requests
                .iter()
                .all(|request| request.method.as_str() == "GET")
        );
    }
}

#[test]
fn a_real_server_is_checked_without_changes() {
    let Some(server) = TestServer::start(None) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let before = server.content();
    let report = with_server(folder.path(), &server.uri());
    assert_contains(
        &report.only("MLflow", "note"),
        &[
            &server.uri(),
            ": 3.",
            "experiment 'ctseg' does not exist yet",
        ],
    );
    report.only("clock", "ok");
    let mut command = doctor(
        folder.path(),
        &["--device", "flex", "--experiment", "Default"],
    );
    let known = Report::run(command.env("MLFLOW_TRACKING_URI", server.uri()));
    assert_contains(
        &known.only("MLflow", "ok"),
        &["experiment 'Default' has ID 0"],
    );
    assert_eq!(server.content(), before);
}

#[test]
fn pending_uploads_are_reported_and_quick_checks_send_no_requests() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let tracking = folder.path().join("runs").join(name).join("tracking");
        std::fs::create_dir_all(&tracking).unwrap();
        std::fs::write(tracking.join("events.jsonl"), "{\"at\":1}\n").unwrap();
    }
    let closed = format!("http://127.0.0.1:{}", free_port());
    // One of the runs is fully uploaded to this server.
    let content = json!({"servers": {closed.as_str(): {
        "experiment": "ctseg", "experiment_id": "1", "run_id": "x", "networks": {},
        "numbers": 9, "files": 9, "artifacts": {},
    }}});
    let delivered = folder.path().join("runs/a/tracking/delivered.json");
    std::fs::write(&delivered, content.to_string()).unwrap();
    let report = with_server(folder.path(), &closed);
    let text = report.only("MLflow, to send", "note");
    assert_contains(&text, &["runs/b has data to upload", "ctseg sync runs"]);
    std::fs::remove_file(&delivered).unwrap();
    let report = with_server(folder.path(), &closed);
    assert_contains(
        &report.only("MLflow, to send", "note"),
        &["2 runs have data to upload"],
    );
    let mut command = doctor(folder.path(), &["--device", "flex", "--quick"]);
    let quick = Report::run(command.env("MLFLOW_TRACKING_URI", &closed));
    assert!(quick.all("MLflow").is_empty());
    quick.assert_faults(&[]);
}
