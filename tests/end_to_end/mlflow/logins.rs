//! A server with logins and its own certificate.

use super::*;

/// Runs `ctseg sync`, which the server must refuse; returns stderr and stdout.
fn refused(test: &TestServer, folder: &Path, variables: &[(&str, &str)]) -> String {
    let output = ctseg(folder, &["sync"])
        .env("MLFLOW_TRACKING_URI", test.uri())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    stderr(&output) + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_server_with_logins_accepts_authenticated_runs() {
    let Some(test) = TestServer::start(Some("basic-auth")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = a_model(&folder.path().join("model"));
    let runs = folder.path().join("runs/sweep");
    std::fs::create_dir_all(&runs).unwrap();
    let (captured, observer) = CapturedLog::new();
    let mut anonymous = server(&test.uri());
    anonymous.trust.authorities = Some(test.authority());
    let experiment = Some("everything".to_owned());
    let mlflow = Mlflow::new(Some(anonymous), experiment, None, &observer);
    log_everything(&mlflow.unwrap(), &runs, &model);
    let warnings = captured.warnings();
    assert!(
        warnings[0].contains("401") && warnings[0].contains("MLFLOW_TRACKING_USERNAME"),
        "{warnings:?}"
    );
    let wrong = [
        ("MLFLOW_TRACKING_USERNAME", "admin"),
        ("MLFLOW_TRACKING_PASSWORD", "wr0ng-secret"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
    ];
    let log = refused(&test, folder.path(), &wrong);
    assert!(log.contains("401") && !log.contains("wr0ng"), "{log}");
    // No trusted CA has signed the certificate.
    let log = refused(&test, folder.path(), &wrong[..2]);
    assert!(
        log.contains("certificate") && !log.contains("wr0ng"),
        "{log}"
    );

    // The login in the address, from ctseg.toml.
    let login = PASSWORD.replace('&', "%26").replace('/', "%2F");
    let address = test
        .uri()
        .replace("https://", &format!("https://admin:{login}@"));
    std::fs::write(
        folder.path().join("ctseg.toml"),
        format!("[mlflow]\nuri = \"{address}\"\n"),
    )
    .unwrap();
    let output = ctseg(folder.path(), &["sync"])
        .env("MLFLOW_TRACKING_SERVER_CERT_PATH", test.authority())
        .output()
        .unwrap();
    let log = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("complete"), "{log}");
    assert_everything(&test.content(), &runs, &model);
    for place in [&runs, &runs.join("trials/000")] {
        for file in std::fs::read_dir(place.join("tracking")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let secret = [PASSWORD, &login, "wr0ng"];
            assert!(!secret.iter().any(|secret| text.contains(secret)), "{text}");
        }
    }
    assert!(!log.contains(&login) && !log.contains(PASSWORD));
}
