//! Uploads of files to an MLflow server that fail, whole or in parts.

use super::*;

fn artifact(folder: &Path, name: &str, bytes: &[u8]) -> Event {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    let to = String::new();
    Event::Artifact { path, to }
}

#[test]
fn files_outside_the_run_folder_are_not_uploaded() {
    let fake = Fake::start(Box::new(|_| None));
    let elsewhere = tempfile::tempdir().unwrap();
    let run = tempfile::tempdir().unwrap();
    let mut events = vec![
        artifact(elsewhere.path(), "named.txt", b"secret"),
        artifact(elsewhere.path(), "linked.txt", b"secret"),
        artifact(run.path(), "own.txt", b"abc"),
    ];
    let link = run.path().join("link.txt");
    std::os::unix::fs::symlink(elsewhere.path().join("linked.txt"), &link).unwrap();
    events[1] = Event::Artifact {
        path: link,
        to: String::new(),
    };
    log_run(None, run.path(), &events);
    let after = sync_run(fake.server(), Multipart::default(), run.path());
    assert_eq!((after.sent.files, after.outcome), (1, sync::Outcome::All));
    let notes = after.sent.notes;
    for name in ["named.txt", "link.txt"] {
        let is_named = |note: &String| note.contains(&format!("{name}: is not in the run folder"));
        assert!(notes.iter().any(is_named), "{notes:?}");
    }
    let is_secret = |request: &Request| request.body == b"secret";
    assert!(!fake.requests().iter().any(is_secret));
}

#[test]
fn a_full_server_disk_delays_files_but_not_metrics() {
    let full = ResponseTemplate::new(500)
        .set_body_json(json!({"message": "[Errno 28] No space left on device"}));
    let fake = Fake::start(first_requests(1, "a.bin", full));
    let run = tempfile::tempdir().unwrap();
    let events = [
        artifact(run.path(), "a.bin", b"abc"),
        points(&["loss"], 1..4),
    ];
    let log = log_run(Some(fake.server()), run.path(), &events);
    let warnings = log.warnings();
    assert!(warnings[0].contains("No space left"), "{warnings:?}");
    assert_eq!(steps(&fake, 0), [1, 2, 3]);
    let after = sync_run(fake.server(), Multipart::default(), run.path());
    assert_eq!(after.outcome, sync::Outcome::All);
    assert_eq!((after.sent.metrics, after.sent.files), (0, 1));
    // A size limit of the server is not worth waiting for.
    let limit = Fake::start(first_requests(9, "a.bin", ResponseTemplate::new(413)));
    let after = sync_run(limit.server(), Multipart::default(), run.path());
    assert_eq!(after.outcome, sync::Outcome::All);
    assert!(after.sent.notes[0].contains("413"), "{:?}", after.sent);
}

/// An artifact server that resets the connection of the first upload; returns its address and the other bodies.
fn resetting_server() -> (String, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&bodies);
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut bytes = vec![0; if index == 0 { 1000 } else { length }];
            stream.read_exact(&mut bytes).unwrap();
            if index > 0 {
                kept.lock().unwrap().push(bytes);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
            }
            // Closing with unread bytes resets the connection.
        }
    });
    (uri, bodies)
}

#[test]
fn an_interrupted_upload_restarts_from_the_beginning() {
    let (files, bodies) = resetting_server();
    let uri = format!("{files}/api/2.0/mlflow-artifacts/artifacts/1/r1/artifacts");
    let fake = Fake::start(with_artifacts_at(uri));
    let run = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..8_000_000_u32)
        .map(|index| (index % 251) as u8)
        .collect();
    log_run(None, run.path(), &[artifact(run.path(), "a.bin", &bytes)]);
    let after = sync_run(fake.server(), Multipart::default(), run.path());
    assert_eq!(after.outcome, sync::Outcome::All, "{after:?}");
    assert_eq!(after.sent.bytes, bytes.len() as u64);
    let bodies = bodies.lock().unwrap();
    assert!(bodies.len() == 1 && bodies[0] == bytes);
}

const IN_PARTS: Multipart = Multipart {
    min_file_bytes: 10,
    part_bytes: 8,
};

#[test]
fn large_files_are_uploaded_in_parts() {
    let fake = Fake::start(Box::new(|_| None));
    let run = tempfile::tempdir().unwrap();
    log_run(
        None,
        run.path(),
        &[artifact(run.path(), "a.bin", b"0123456789abc")],
    );
    let server = Server {
        credentials: Credentials::Token("s3cret".to_owned()),
        ..fake.server()
    };
    let after = sync_run(server, IN_PARTS, run.path());
    assert_eq!((after.sent.files, &after.outcome), (1, &sync::Outcome::All));
    let requests = fake.requests();
    let parts: Vec<&Request> = requests
        .iter()
        .filter(|request| request.url.path().starts_with("/bucket/"))
        .collect();
    assert_eq!(parts[0].body, b"01234567");
    assert_eq!(parts[1].body, b"89abc");
    assert_eq!(parts[0].headers["x-store"], "yes");
    // The store gets no login.
    assert!(
        parts
            .iter()
            .all(|part| !part.headers.contains_key("authorization"))
    );
    let path = "/api/2.0/mlflow-artifacts/mpu/complete/1/r1/artifacts";
    let complete = requests.iter().find(|request| request.url.path() == path);
    let complete = body(complete.unwrap());
    assert_eq!(complete["upload_id"], "u1");
    assert_eq!(complete["path"], "a.bin");
    assert_eq!(complete["parts"][1]["etag"], "tag of /bucket/2");
}

#[test]
fn failed_parts_are_aborted_and_stores_without_multipart_get_whole_files() {
    let run = tempfile::tempdir().unwrap();
    log_run(
        None,
        run.path(),
        &[artifact(run.path(), "a.bin", b"0123456789abc")],
    );
    let fake = Fake::start(first_requests(1, "/bucket/2", ResponseTemplate::new(503)));
    let after = sync_run(fake.server(), IN_PARTS, run.path());
    assert_eq!(after.outcome, sync::Outcome::All);
    assert_eq!(fake.count("mpu/abort/1/r1/artifacts"), 1);
    assert_eq!(fake.count("mpu/complete/1/r1/artifacts"), 1);
    let whole = Fake::start(first_requests(
        9,
        "mpu/create/1/r1/artifacts",
        ResponseTemplate::new(501),
    ));
    let after = sync_run(whole.server(), IN_PARTS, run.path());
    assert_eq!(after.outcome, sync::Outcome::All);
    let requests = whole.requests();
    let put = requests
        .iter()
        .find(|request| is(request, "artifacts/1/r1/artifacts/a.bin"));
    assert_eq!(put.unwrap().body, b"0123456789abc");
}

#[test]
fn files_are_uploaded_whole_if_the_number_of_part_urls_differs() {
    let run = tempfile::tempdir().unwrap();
    let bytes = b"0123456789abcdefghi";
    log_run(None, run.path(), &[artifact(run.path(), "a.bin", bytes)]);
    // Three parts, but the server names two URLs.
    let fake = Fake::start(Box::new(|_| None));
    let after = sync_run(fake.server(), IN_PARTS, run.path());
    assert_eq!((after.sent.files, &after.outcome), (1, &sync::Outcome::All));
    assert_eq!(fake.count("mpu/abort/1/r1/artifacts"), 1);
    assert_eq!(fake.count("mpu/complete/1/r1/artifacts"), 0);
    let requests = fake.requests();
    let mut put = requests.iter();
    let put = put.find(|request| is(request, "artifacts/1/r1/artifacts/a.bin"));
    assert_eq!(put.unwrap().body, bytes);
}

#[test]
fn a_server_may_only_choose_folders_below_the_artifact_root() {
    let own = tempfile::tempdir().unwrap();
    let run = own.path().join("run");
    std::fs::create_dir(&run).unwrap();
    log_run(None, &run, &[artifact(&run, "a.bin", b"abc")]);
    let (root, victim) = (own.path().join("root"), own.path().join("victim"));
    for folder in [&root, &victim] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::write(victim.join("a.bin"), "mine").unwrap();
    std::os::unix::fs::symlink(&victim, root.join("link")).unwrap();
    let sent = |folder: &Path, root: Option<PathBuf>| {
        let fake = Fake::start(with_artifacts_at(format!("file://{}", folder.display())));
        let server = Server {
            artifact_root: root,
            ..fake.server()
        };
        let after = sync_run(server, Multipart::default(), &run);
        assert_eq!((after.sent.left_out, &after.sent.notes), (0, &Vec::new()));
        (after.sent.files, after.outcome)
    };
    for (folder, given) in [
        (victim.clone(), None),
        (victim.clone(), Some(&root)),
        (root.join("../victim"), Some(&root)),
        (root.join("link"), Some(&root)),
        (root.join("gone/../../victim"), Some(&root)),
        (root.join("%2e%2e/victim"), Some(&root)),
    ] {
        let (files, outcome) = sent(&folder, given.cloned());
        let sync::Outcome::Failed(why) = outcome else {
            panic!("{folder:?} {outcome:?}");
        };
        assert!(
            files == 0 && why.contains("--mlflow-artifact-root"),
            "{why}"
        );
    }
    assert_eq!(std::fs::read(victim.join("a.bin")).unwrap(), b"mine");
    // Pending files are sent once it is allowed.
    let folder = root.join("1/r1/artifacts");
    assert_eq!(sent(&folder, Some(root)), (1, sync::Outcome::All));
    assert_eq!(std::fs::read(folder.join("a.bin")).unwrap(), b"abc");
    for elsewhere in ["s3://bucket/1/r1/artifacts", "file://nas/1/r1/artifacts"] {
        let fake = Fake::start(with_artifacts_at(elsewhere.to_owned()));
        let run = tempfile::tempdir().unwrap();
        log_run(None, run.path(), &[artifact(run.path(), "a.bin", b"abc")]);
        let after = sync_run(fake.server(), Multipart::default(), run.path());
        assert_eq!(after.outcome, sync::Outcome::All);
        let note = &after.sent.notes[0];
        assert!(note.contains("start it with --serve-artifacts"), "{note}");
    }
}

#[test]
fn metrics_are_sent_while_files_wait() {
    let run = tempfile::tempdir().unwrap();
    let fake = Fake::start(with_artifacts_at("file:///x/1/r1/artifacts".to_owned()));
    let events = [
        artifact(run.path(), "a.bin", b"abc"),
        artifact(run.path(), "b.bin", b"abc"),
        points(&["loss"], 1..4),
    ];
    let log = log_run(Some(fake.server()), run.path(), &events);
    let warnings = log.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("'ctseg sync'"),
        "{warnings:?}"
    );
    assert_eq!(steps(&fake, 0), [1, 2, 3]);
}
