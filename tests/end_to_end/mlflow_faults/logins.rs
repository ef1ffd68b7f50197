//! Logins go only to servers that the user named.

use std::collections::BTreeSet;

use ctseg_http::Url;

use super::*;
use crate::common::{ctseg, stderr};

/// The logins that a server received.
fn logins(fake: &Fake) -> BTreeSet<String> {
    let requests = fake.requests();
    let login = |request: &Request| match request.headers.get("authorization") {
        Some(value) => value.to_str().unwrap().to_owned(),
        None => "none".to_owned(),
    };
    requests.iter().map(login).collect()
}

fn one_login(login: &str) -> BTreeSet<String> {
    BTreeSet::from([login.to_owned()])
}

fn with_login(server: Server) -> Server {
    Server {
        credentials: Credentials::Token("s3cret".to_owned()),
        ..server
    }
}

fn log_file(run: &Path) {
    let path = run.join("a.bin");
    std::fs::write(&path, "abc").unwrap();
    let to = String::new();
    log_run(
        None,
        run,
        &[points(&["loss"], 1..3), Event::Artifact { path, to }],
    );
}

/// The artifact URI of a server, as another server names it.
fn artifacts_at(files: &Fake) -> String {
    format!("{}/api/2.0/mlflow-artifacts/artifacts/1", files.uri())
}

/// A server that answers `status` to requests without a login.
fn login_required(status: u16) -> Fake {
    Fake::start(Box::new(move |request| {
        let is_known = request.headers.contains_key("authorization");
        (!is_known).then(|| ResponseTemplate::new(status))
    }))
}

#[test]
fn another_artifact_server_gets_no_login() {
    for scheme in ["http", "mlflow-artifacts"] {
        let run = tempfile::tempdir().unwrap();
        log_file(run.path());
        let files = Fake::start(Box::new(|_| None));
        let uri = match scheme {
            "http" => artifacts_at(&files),
            _ => format!("{}/1", files.uri().replace("http", scheme)),
        };
        let fake = Fake::start(with_artifacts_at(uri));
        let after = sync_run(with_login(fake.server()), Multipart::default(), run.path());
        assert_eq!((after.sent.files, after.outcome), (1, sync::Outcome::All));
        assert_eq!(logins(&fake), one_login("Bearer s3cret"));
        assert_eq!(logins(&files), one_login("none"));
    }
}

#[test]
fn a_trusted_artifact_server_gets_the_login() {
    for status in [401, 403] {
        let run = tempfile::tempdir().unwrap();
        log_file(run.path());
        let files = login_required(status);
        let fake = Fake::start(with_artifacts_at(artifacts_at(&files)));
        let server = with_login(fake.server());
        let after = sync_run(server.clone(), Multipart::default(), run.path());
        let sync::Outcome::Failed(why) = &after.outcome else {
            panic!("{after:?}");
        };
        let listed = format!(
            "answers {status}; list \"{}\" in trusted_servers in ~/.config/ctseg/config.toml",
            files.uri()
        );
        assert!(why.contains(&listed), "{why}");
        assert_eq!((after.sent.metrics, after.sent.files), (2, 0));
        let server = Server {
            trusted: vec![Url::parse(&files.uri()).unwrap()],
            ..server
        };
        let after = sync_run(server, Multipart::default(), run.path());
        assert_eq!((after.sent.files, &after.outcome), (1, &sync::Outcome::All));
        let seen = ["none", "Bearer s3cret"].map(str::to_owned);
        assert_eq!(logins(&files), BTreeSet::from(seen));
    }
}

#[test]
fn a_missing_login_is_reported() {
    let run = tempfile::tempdir().unwrap();
    log_file(run.path());
    let files = login_required(401);
    let fake = Fake::start(with_artifacts_at(artifacts_at(&files)));
    let after = sync_run(fake.server(), Multipart::default(), run.path());
    let sync::Outcome::ServerFailed(why) = &after.outcome else {
        panic!("{after:?}");
    };
    assert!(
        why.contains(&format!("{} answers 401", files.uri()))
            && why.contains("MLFLOW_TRACKING_TOKEN")
            && !why.contains("trusted_servers"),
        "{why}"
    );
}

#[test]
fn redirects_to_another_server_carry_no_login() {
    let run = tempfile::tempdir().unwrap();
    log_file(run.path());
    let elsewhere = Fake::start(Box::new(|_| None));
    for status in [301, 302, 307, 308] {
        let onward = ResponseTemplate::new(status).insert_header("Location", elsewhere.uri());
        let fake = Fake::start(Box::new(move |_| Some(onward.clone())));
        let after = sync_run(with_login(fake.server()), Multipart::default(), run.path());
        let is_failed = matches!(after.outcome, sync::Outcome::ServerFailed(_));
        assert!(is_failed, "{after:?}");
        assert_eq!(logins(&fake), one_login("Bearer s3cret"));
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

/// A folder with a run and a `ctseg.toml` that names a server, as it may come with a downloaded dataset.
struct Download {
    folder: tempfile::TempDir,
    fake: Fake,
}

/// User ann with the password s3cret.
const BASIC: &str = "Basic YW5uOnMzY3JldA==";

impl Download {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Fake::start(Box::new(|_| None));
        let run = folder.path().join("runs/a");
        std::fs::create_dir_all(&run).unwrap();
        log_run(None, &run, &[points(&["loss"], 1..3)]);
        std::fs::create_dir(folder.path().join("home")).unwrap();
        let own = Self { folder, fake };
        own.write("x.nii", "");
        own.write(
            "ctseg.toml",
            &format!("[mlflow]\nuri = \"{}\"\n", own.fake.uri()),
        );
        own
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn write_user_file(&self, text: &str) {
        self.write("home/.config/ctseg/config.toml", text);
    }

    /// Runs `ctseg`, which must exit with `code`; returns stderr.
    fn run(&self, arguments: &[&str], variables: &[(&str, &str)], code: i32) -> String {
        let output = ctseg(self.folder.path(), arguments)
            .env_remove("XDG_CONFIG_HOME")
            .env("HOME", self.folder.path().join("home"))
            .env("NO_PROXY", "127.0.0.1")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let log = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{log}");
        log
    }
}

/// Fails for lack of a model, after its run has started.
const PREDICT: [&str; 6] = ["predict", "x.nii", "--model", "none", "-o", "out"];

const LOGIN: [(&str, &str); 2] = [
    ("MLFLOW_TRACKING_USERNAME", "ann"),
    ("MLFLOW_TRACKING_PASSWORD", "s3cret"),
];

#[test]
fn a_downloaded_settings_file_gets_no_login() {
    let place = Download::new();
    let refused = |variables: &[(&str, &str)]| {
        let log = place.run(&["sync"], variables, 1);
        assert_eq!(log.matches("MLFLOW_TRACKING_URI").count(), 1, "{log}");
        assert!(log.contains(&place.fake.uri()), "{log}");
        assert!(!log.contains("s3cret"), "{log}");
    };
    refused(&LOGIN);
    refused(&[("MLFLOW_TRACKING_TOKEN", "s3cret")]);
    // A run continues and is kept, with one warning.
    let log = place.run(&PREDICT, &LOGIN, 1);
    assert_eq!(log.matches("MLFLOW_TRACKING_URI").count(), 1, "{log}");
    assert!(log.contains("later with 'ctseg sync'"), "{log}");
    let runs = std::fs::read_dir(place.folder.path().join("runs")).unwrap();
    assert_eq!(runs.count(), 2);
    place.run(&["doctor", "--device", "flex"], &LOGIN, 1);
    let credentials =
        "[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = s3cret\n";
    place.write("home/.mlflow/credentials", credentials);
    refused(&[]);
    assert_eq!(place.fake.requests().len(), 0);
}

#[test]
fn without_a_login_the_settings_file_in_the_folder_applies() {
    let place = Download::new();
    place.run(&["sync"], &[], 0);
    assert_eq!(logins(&place.fake), one_login("none"));
}

#[test]
fn servers_named_by_the_user_get_the_login() {
    // The environment, as in a cluster's job, overrides the file.
    let place = Download::new();
    let cluster = Fake::start(Box::new(|_| None));
    let uri = cluster.uri();
    let named = [("MLFLOW_TRACKING_URI", uri.as_str())];
    place.run(&["sync"], &[&LOGIN[..], &named[..]].concat(), 0);
    assert_eq!(logins(&cluster), one_login(BASIC));
    assert_eq!(place.fake.requests().len(), 0);

    let place = Download::new();
    place.run(&["sync", "--config", "ctseg.toml"], &LOGIN, 0);
    assert_eq!(logins(&place.fake), one_login(BASIC));

    for key in [
        "trusted_servers = [\"URI/any/path\"]",
        "[mlflow]\nuri = \"URI\"",
    ] {
        let place = Download::new();
        place.write_user_file(&key.replace("URI", &place.fake.uri()));
        place.run(&["sync"], &LOGIN, 0);
        assert_eq!(logins(&place.fake), one_login(BASIC), "{key}");
    }
}

#[test]
fn the_settings_file_in_the_folder_overrides_the_user_configuration() {
    let place = Download::new();
    let uri = place.fake.uri();
    place.write_user_file(&format!(
        "runs = \"nowhere\"\n[mlflow]\nuri = \"{uri}\"\nexperiment = \"mine\"\n"
    ));
    place.write("ctseg.toml", "runs = \"runs\"\n[mlflow]\nmodel = \"m\"\n");
    place.run(&["sync"], &LOGIN, 0);
    assert_eq!(logins(&place.fake), one_login(BASIC));
    let requests = place.fake.requests();
    let asked = requests.iter().find(|request| is(request, "get-by-name"));
    assert_eq!(asked.unwrap().url.query(), Some("experiment_name=mine"));
    // XDG_CONFIG_HOME sets its folder.
    let elsewhere = place.folder.path().join("elsewhere");
    let xdg = [("XDG_CONFIG_HOME", elsewhere.to_str().unwrap())];
    let log = place.run(&["sync"], &xdg, 2);
    assert!(log.contains("no MLflow server configured"), "{log}");
    place.write("elsewhere/ctseg/config.toml", "modle = \"m\"\n");
    let log = place.run(&["sync"], &xdg, 1);
    assert!(
        log.contains("elsewhere/ctseg/config.toml") && log.contains("modle"),
        "{log}"
    );
}

#[test]
fn a_downloaded_settings_file_trusts_no_server() {
    let place = Download::new();
    for text in [
        "trusted_servers = [\"https://x\"]\n",
        "[mlflow]\nartifact_root = \"/\"\n",
    ] {
        place.write("ctseg.toml", text);
        let log = place.run(&["sync"], &LOGIN, 1);
        assert!(
            log.contains("ctseg.toml: trusted_servers and [mlflow] artifact_root")
                && log.contains("~/.config/ctseg/config.toml"),
            "{log}"
        );
    }
    std::fs::remove_file(place.folder.path().join("ctseg.toml")).unwrap();
    place.write_user_file("trusted_servers = [\"https://a\", \"tracking\"]\n");
    let log = place.run(&["sync"], &LOGIN, 1);
    assert!(
        log.contains("trusted_servers contains 'tracking'; expected"),
        "{log}"
    );
}

#[test]
fn insecure_connections_are_warned_about_once() {
    let place = Download::new();
    let uri = place.fake.uri();
    let insecure = [
        ("MLFLOW_TRACKING_URI", uri.as_str()),
        ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
    ];
    let log = place.run(&["sync"], &[&LOGIN[..], &insecure[..]].concat(), 0);
    assert_eq!(
        log.matches("turns certificate checks off").count(),
        1,
        "{log}"
    );
    // A connection to the same machine is safe.
    assert!(!log.contains("unencrypted"), "{log}");
    // No such host; port 9 is discard.
    let plain = [
        ("MLFLOW_TRACKING_URI", "http://no-such-host.invalid:9"),
        ("NO_PROXY", "*"),
    ];
    let log = place.run(&PREDICT, &[&LOGIN[..], &plain[..]].concat(), 1);
    assert_eq!(
        log.matches("is sent to http://no-such-host.invalid:9 unencrypted")
            .count(),
        1,
        "{log}"
    );
}
