//! MLflow servers that are away, hang, refuse or are none; a clock that is wrong; what waits to be sent.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use wiremock::matchers::{any, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::common::mlflow::{TestServer, free_port};
use super::{Said, doctor, says};

/// A doctor in `folder` with this server; the engine that is soonest done with.
fn with_server(folder: &Path, uri: &str) -> Said {
    let mut command = doctor(folder, &["--device", "flex"]);
    Said::by(command.env("MLFLOW_TRACKING_URI", uri))
}

/// A server that answers every request with `response`, in words.
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
fn a_server_that_is_away_is_a_fault_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let closed = format!("http://127.0.0.1:{}", free_port());
    let said = with_server(folder.path(), &closed);
    let text = said.only("MLflow", "fault");
    says(&text, &[&closed, "refused", "check the port", "ctseg sync"]);
    said.wrong_only(&["MLflow"]);
    let text =
        with_server(folder.path(), "http://no-such-host.invalid:5000").only("MLflow", "fault");
    says(
        &text,
        &[
            "no-such-host.invalid",
            "host name cannot be resolved",
            "/etc/resolv.conf",
        ],
    );
    let text = with_server(folder.path(), "sqlite:///mlflow.db").only("MLflow", "fault");
    says(
        &text,
        &[
            "expected a server's address",
            "'mlflow server --backend-store-uri sqlite:///mlflow.db'",
        ],
    );
}

#[test]
fn a_server_that_never_answers_is_given_up_on() {
    let folder = tempfile::tempdir().unwrap();
    // Connections are taken by the kernel; nobody reads.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let begun = Instant::now();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let text = with_server(folder.path(), &uri).only("MLflow", "fault");
    says(&text, &["timed out", "a firewall or a hanging server"]);
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn servers_that_refuse_and_pages_of_others_are_told_apart() {
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
        says(&text, &expected);
    }
}

#[test]
fn a_proxy_in_between_is_named_without_its_login() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = format!("http://ann:s3cret@127.0.0.1:{}", free_port());
    let mut command = doctor(folder.path(), &["--device", "flex"]);
    command
        .env("MLFLOW_TRACKING_URI", "http://tracking.example.org:5000")
        .env("HTTP_PROXY", &proxy);
    let text = Said::by(&mut command).only("MLflow", "fault");
    says(
        &text,
        &[
            "HTTP_PROXY=http://127.0.0.1:",
            "add it to NO_PROXY: tracking.example.org",
        ],
    );
    assert!(!text.contains("s3cret"), "{text}");
}

/// As MLflow answers, with its clock off by so many seconds.
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
fn a_clock_that_is_wrong_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    for (ahead, state, words) in [
        (0, "ok", "within 2 s"),
        (1200, "warning", " s behind the MLflow server's"),
        (-1200, "warning", " s ahead of the MLflow server's"),
    ] {
        let (server, runtime) = fake(ahead);
        let said = with_server(folder.path(), &server.uri());
        says(&said.only("clock", state), &[words]);
        says(
            &said.only("MLflow", "note"),
            &["3.6.0", "experiment 'ctseg' does not exist yet"],
        );
        said.wrong_only(&[]);
        let requests = runtime.block_on(server.received_requests()).unwrap();
        assert!(
            requests
                .iter()
                .all(|request| request.method.as_str() == "GET")
        );
    }
}

#[test]
fn a_real_server_is_asked_and_left_as_it_was() {
    let Some(server) = TestServer::start(None) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let before = server.content();
    let said = with_server(folder.path(), &server.uri());
    says(
        &said.only("MLflow", "note"),
        &[
            &server.uri(),
            ": 3.",
            "experiment 'ctseg' does not exist yet",
        ],
    );
    said.only("clock", "ok");
    let mut command = doctor(
        folder.path(),
        &["--device", "flex", "--experiment", "Default"],
    );
    let known = Said::by(command.env("MLFLOW_TRACKING_URI", server.uri()));
    says(
        &known.only("MLflow", "ok"),
        &["experiment 'Default' has ID 0"],
    );
    assert_eq!(server.content(), before);
}

#[test]
fn what_waits_to_be_sent_is_told_and_quick_checks_ask_nobody() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let tracking = folder.path().join("runs").join(name).join("tracking");
        std::fs::create_dir_all(&tracking).unwrap();
        std::fs::write(tracking.join("events.jsonl"), "{\"at\":1}\n").unwrap();
    }
    let closed = format!("http://127.0.0.1:{}", free_port());
    // Of one of them this server has all.
    let standing = json!({"servers": {closed.as_str(): {
        "experiment": "ctseg", "experiment_id": "1", "run_id": "x", "networks": {},
        "numbers": 9, "files": 9, "artifacts": {},
    }}});
    let delivered = folder.path().join("runs/a/tracking/delivered.json");
    std::fs::write(&delivered, standing.to_string()).unwrap();
    let said = with_server(folder.path(), &closed);
    let text = said.only("MLflow, to send", "note");
    says(&text, &["runs/b has data to upload", "ctseg sync runs"]);
    std::fs::remove_file(&delivered).unwrap();
    let said = with_server(folder.path(), &closed);
    says(
        &said.only("MLflow, to send", "note"),
        &["2 runs have data to upload"],
    );
    let mut command = doctor(folder.path(), &["--device", "flex", "--quick"]);
    let quick = Said::by(command.env("MLFLOW_TRACKING_URI", &closed));
    assert!(quick.all("MLflow").is_empty());
    quick.wrong_only(&[]);
}
