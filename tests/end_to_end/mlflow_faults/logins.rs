//! Logins go to servers that the user named, and to nobody else.

use std::collections::BTreeSet;

use ctseg_http::Url;

use super::*;
use crate::common::{ctseg, stderr};

/// The logins that a server saw.
fn logins(fake: &Fake) -> BTreeSet<String> {
    let requests = fake.requests();
    let login = |request: &Request| match request.headers.get("authorization") {
        Some(value) => value.to_str().unwrap().to_owned(),
        None => "none".to_owned(),
    };
    requests.iter().map(login).collect()
}

fn only(login: &str) -> BTreeSet<String> {
    BTreeSet::from([login.to_owned()])
}

fn with_login(server: Server) -> Server {
    Server {
        credentials: Credentials::Token("s3cret".to_owned()),
        ..server
    }
}

fn with_a_file(run: &Path) {
    let path = run.join("a.bin");
    std::fs::write(&path, "abc").unwrap();
    let to = String::new();
    told(
        None,
        run,
        &[points(&["loss"], 1..3), Event::Artifact { path, to }],
    );
}

/// The place for files at a server, as another one names it.
fn artifacts_at(files: &Fake) -> String {
    format!("{}/api/2.0/mlflow-artifacts/artifacts/1", files.uri())
}

/// A server that answers `status` to whoever has no login.
fn for_known_ones(status: u16) -> Fake {
    Fake::start(Box::new(move |request| {
        let is_known = request.headers.contains_key("authorization");
        (!is_known).then(|| ResponseTemplate::new(status))
    }))
}

#[test]
fn an_artifact_server_elsewhere_sees_no_login() {
    for scheme in ["http", "mlflow-artifacts"] {
        let run = tempfile::tempdir().unwrap();
        with_a_file(run.path());
        let files = Fake::start(Box::new(|_| None));
        let uri = match scheme {
            "http" => artifacts_at(&files),
            _ => format!("{}/1", files.uri().replace("http", scheme)),
        };
        let fake = Fake::start(with_artifacts_at(uri));
        let after = synced(with_login(fake.server()), Multipart::default(), run.path());
        assert_eq!((after.sent.files, after.outcome), (1, sync::Outcome::All));
        assert_eq!(logins(&fake), only("Bearer s3cret"));
        assert_eq!(logins(&files), only("none"));
    }
}

#[test]
fn an_artifact_server_gets_the_login_where_it_is_trusted() {
    for status in [401, 403] {
        let run = tempfile::tempdir().unwrap();
        with_a_file(run.path());
        let files = for_known_ones(status);
        let fake = Fake::start(with_artifacts_at(artifacts_at(&files)));
        let server = with_login(fake.server());
        let after = synced(server.clone(), Multipart::default(), run.path());
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
        let after = synced(server, Multipart::default(), run.path());
        assert_eq!((after.sent.files, &after.outcome), (1, &sync::Outcome::All));
        let seen = ["none", "Bearer s3cret"].map(str::to_owned);
        assert_eq!(logins(&files), BTreeSet::from(seen));
    }
}

#[test]
fn who_has_no_login_is_told_to_set_one() {
    let run = tempfile::tempdir().unwrap();
    with_a_file(run.path());
    let files = for_known_ones(401);
    let fake = Fake::start(with_artifacts_at(artifacts_at(&files)));
    let after = synced(fake.server(), Multipart::default(), run.path());
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
fn redirections_carry_no_login_elsewhere() {
    let run = tempfile::tempdir().unwrap();
    with_a_file(run.path());
    let elsewhere = Fake::start(Box::new(|_| None));
    for status in [301, 302, 307, 308] {
        let onward = ResponseTemplate::new(status).insert_header("Location", elsewhere.uri());
        let fake = Fake::start(Box::new(move |_| Some(onward.clone())));
        let after = synced(with_login(fake.server()), Multipart::default(), run.path());
        let is_failed = matches!(after.outcome, sync::Outcome::ServerFailed(_));
        assert!(is_failed, "{after:?}");
        assert_eq!(logins(&fake), only("Bearer s3cret"));
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

/// A folder with a run, a server, and a `ctseg.toml` that names it, as it may come with a dataset.
struct Download {
    folder: tempfile::TempDir,
    fake: Fake,
}

/// Of user ann with the password s3cret.
const BASIC: &str = "Basic YW5uOnMzY3JldA==";

impl Download {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Fake::start(Box::new(|_| None));
        let run = folder.path().join("runs/a");
        std::fs::create_dir_all(&run).unwrap();
        told(None, &run, &[points(&["loss"], 1..3)]);
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

    /// What `ctseg` says, which exits with `code`.
    fn said(&self, arguments: &[&str], variables: &[(&str, &str)], code: i32) -> String {
        let output = ctseg(self.folder.path(), arguments)
            .env_remove("XDG_CONFIG_HOME")
            .env("HOME", self.folder.path().join("home"))
            .env("NO_PROXY", "127.0.0.1")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    }
}

/// Ends without a model, after its run has begun.
const PREDICT: [&str; 6] = ["predict", "x.nii", "--model", "none", "-o", "out"];

const LOGIN: [(&str, &str); 2] = [
    ("MLFLOW_TRACKING_USERNAME", "ann"),
    ("MLFLOW_TRACKING_PASSWORD", "s3cret"),
];

#[test]
fn a_settings_file_of_a_download_gets_no_login() {
    let place = Download::new();
    let refused = |variables: &[(&str, &str)]| {
        let said = place.said(&["sync"], variables, 1);
        assert_eq!(said.matches("MLFLOW_TRACKING_URI").count(), 1, "{said}");
        assert!(said.contains(&place.fake.uri()), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    };
    refused(&LOGIN);
    refused(&[("MLFLOW_TRACKING_TOKEN", "s3cret")]);
    // A run goes on and is kept, with one line.
    let said = place.said(&PREDICT, &LOGIN, 1);
    assert_eq!(said.matches("MLFLOW_TRACKING_URI").count(), 1, "{said}");
    assert!(said.contains("later with 'ctseg sync'"), "{said}");
    let runs = std::fs::read_dir(place.folder.path().join("runs")).unwrap();
    assert_eq!(runs.count(), 2);
    place.said(&["doctor", "--device", "flex"], &LOGIN, 1);
    let credentials =
        "[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = s3cret\n";
    place.write("home/.mlflow/credentials", credentials);
    refused(&[]);
    assert_eq!(place.fake.requests().len(), 0);
}

#[test]
fn without_a_login_the_file_of_the_folder_counts_as_before() {
    let place = Download::new();
    place.said(&["sync"], &[], 0);
    assert_eq!(logins(&place.fake), only("none"));
}

#[test]
fn servers_that_the_user_named_get_the_login() {
    // As a cluster's job is told, whatever a file says.
    let place = Download::new();
    let cluster = Fake::start(Box::new(|_| None));
    let uri = cluster.uri();
    let named = [("MLFLOW_TRACKING_URI", uri.as_str())];
    place.said(&["sync"], &[&LOGIN[..], &named[..]].concat(), 0);
    assert_eq!(logins(&cluster), only(BASIC));
    assert_eq!(place.fake.requests().len(), 0);

    let place = Download::new();
    place.said(&["sync", "--config", "ctseg.toml"], &LOGIN, 0);
    assert_eq!(logins(&place.fake), only(BASIC));

    for key in [
        "trusted_servers = [\"URI/any/path\"]",
        "[mlflow]\nuri = \"URI\"",
    ] {
        let place = Download::new();
        place.write_user_file(&key.replace("URI", &place.fake.uri()));
        place.said(&["sync"], &LOGIN, 0);
        assert_eq!(logins(&place.fake), only(BASIC), "{key}");
    }
}

#[test]
fn the_user_configuration_lies_below_the_file_of_the_folder() {
    let place = Download::new();
    let uri = place.fake.uri();
    place.write_user_file(&format!(
        "runs = \"nowhere\"\n[mlflow]\nuri = \"{uri}\"\nexperiment = \"mine\"\n"
    ));
    place.write("ctseg.toml", "runs = \"runs\"\n[mlflow]\nmodel = \"m\"\n");
    place.said(&["sync"], &LOGIN, 0);
    assert_eq!(logins(&place.fake), only(BASIC));
    let requests = place.fake.requests();
    let asked = requests.iter().find(|request| is(request, "get-by-name"));
    assert_eq!(asked.unwrap().url.query(), Some("experiment_name=mine"));
    // XDG_CONFIG_HOME says where it is.
    let elsewhere = place.folder.path().join("elsewhere");
    let xdg = [("XDG_CONFIG_HOME", elsewhere.to_str().unwrap())];
    let said = place.said(&["sync"], &xdg, 2);
    assert!(said.contains("no MLflow server configured"), "{said}");
    place.write("elsewhere/ctseg/config.toml", "modle = \"m\"\n");
    let said = place.said(&["sync"], &xdg, 1);
    assert!(
        said.contains("elsewhere/ctseg/config.toml") && said.contains("modle"),
        "{said}"
    );
}

#[test]
fn a_settings_file_of_a_download_trusts_nobody() {
    let place = Download::new();
    for text in [
        "trusted_servers = [\"https://x\"]\n",
        "[mlflow]\nartifact_root = \"/\"\n",
    ] {
        place.write("ctseg.toml", text);
        let said = place.said(&["sync"], &LOGIN, 1);
        assert!(
            said.contains("ctseg.toml: trusted_servers and [mlflow] artifact_root")
                && said.contains("~/.config/ctseg/config.toml"),
            "{said}"
        );
    }
    std::fs::remove_file(place.folder.path().join("ctseg.toml")).unwrap();
    place.write_user_file("trusted_servers = [\"https://a\", \"tracking\"]\n");
    let said = place.said(&["sync"], &LOGIN, 1);
    assert!(
        said.contains("trusted_servers contains 'tracking'; expected"),
        "{said}"
    );
}

#[test]
fn unsafe_ways_are_warned_of_once() {
    let place = Download::new();
    let uri = place.fake.uri();
    let insecure = [
        ("MLFLOW_TRACKING_URI", uri.as_str()),
        ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
    ];
    let said = place.said(&["sync"], &[&LOGIN[..], &insecure[..]].concat(), 0);
    assert_eq!(
        said.matches("turns certificate checks off").count(),
        1,
        "{said}"
    );
    // The way to this machine itself is safe.
    assert!(!said.contains("unencrypted"), "{said}");
    // Nobody is there; the port is that of discard.
    let plain = [
        ("MLFLOW_TRACKING_URI", "http://no-such-host.invalid:9"),
        ("NO_PROXY", "*"),
    ];
    let said = place.said(&PREDICT, &[&LOGIN[..], &plain[..]].concat(), 1);
    assert_eq!(
        said.matches("is sent to http://no-such-host.invalid:9 unencrypted")
            .count(),
        1,
        "{said}"
    );
}
