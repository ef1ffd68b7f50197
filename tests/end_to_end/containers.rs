//! The Kubernetes manifests are checked against Kubernetes' schemas; the container image is built and used.

use std::process::{Command, Output};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

fn output_text(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn kubernetes_manifests_are_valid() {
    let python = std::env::var_os("CTSEG_TEST_PYTHON").filter(|python| {
        let import = Command::new(python)
            .args(["-c", "import kubernetes_validate"])
            .output();
        import.is_ok_and(|import| import.status.success())
    });
    let Some(python) = python else {
        println!("skipped: CTSEG_TEST_PYTHON is not set to a Python with kubernetes-validate");
        return;
    };
    let output = Command::new(python)
        .arg(format!("{SCRIPTS}/k8s/check.py"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", output_text(&output));
}

/// Takes minutes, and needs Debian's packages and root; runs only on request.
#[test]
fn the_image_builds_trains_and_predicts_as_its_own_user() {
    if std::env::var_os("CTSEG_TEST_CONTAINER").is_none() {
        println!("skipped: CTSEG_TEST_CONTAINER is not set");
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let script = |name: &str, arguments: &[&str]| {
        let output = Command::new(format!("{SCRIPTS}/container/{name}"))
            .args(arguments)
            .env("CTSEG_IMAGES", images.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", output_text(&output));
    };
    // The image has no MPI: if this build needs it, another is compiled inside.
    let mut build = vec!["--local-base"];
    if !cfg!(feature = "mpi") {
        build.extend(["--prebuilt", env!("CARGO_BIN_EXE_ctseg")]);
    }
    script("build.sh", &build);
    script("test.sh", &[]);
}
