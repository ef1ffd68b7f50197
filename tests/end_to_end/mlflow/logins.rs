//! A server with logins and a certificate of its own.

use super::*;

/// What `ctseg sync` says where the server takes nothing.
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
fn a_server_with_logins_takes_runs_of_those_it_knows() {
    let Some(test) = TestServer::start(Some("basic-auth")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = a_model(&folder.path().join("model"));
    let runs = folder.path().join("runs/sweep");
    std::fs::create_dir_all(&runs).unwrap();
    let (heard, observer) = Heard::new();
    let mut stranger = server(&test.uri());
    stranger.trust.authorities = Some(test.authority());
    let experiment = Some("everything".to_owned());
    let mlflow = Mlflow::new(Some(stranger), experiment, None, &observer);
    tell_everything(&mlflow.unwrap(), &runs, &model);
    let warnings = heard.warnings();
    assert!(
        warnings[0].contains("401") && warnings[0].contains("MLFLOW_TRACKING_USERNAME"),
        "{warnings:?}"
    );
    let wrong = [
        ("MLFLOW_TRACKING_USERNAME", "admin"),
        ("MLFLOW_TRACKING_PASSWORD", "wr0ng-secret"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
    ];
    let said = refused(&test, folder.path(), &wrong);
    assert!(said.contains("401") && !said.contains("wr0ng"), "{said}");
    // Nobody that is trusted vouches for it.
    let said = refused(&test, folder.path(), &wrong[..2]);
    assert!(
        said.contains("certificate") && !said.contains("wr0ng"),
        "{said}"
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
    let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("complete"), "{said}");
    assert_everything(&test.content(), &runs, &model);
    for place in [&runs, &runs.join("trials/000")] {
        for file in std::fs::read_dir(place.join("tracking")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let secret = [PASSWORD, &login, "wr0ng"];
            assert!(!secret.iter().any(|secret| text.contains(secret)), "{text}");
        }
    }
    assert!(!said.contains(&login) && !said.contains(PASSWORD));
}
