//! The Kubernetes manifests, against Kubernetes' schemas and what ctseg needs of them; the image, built and used.

use std::process::{Command, Output};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

fn said(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn manifests_are_what_kubernetes_and_ctseg_expect() {
    let python = std::env::var_os("CTSEG_TEST_PYTHON").filter(|python| {
        let import = Command::new(python)
            .args(["-c", "import kubernetes_validate"])
            .output();
        import.is_ok_and(|import| import.status.success())
    });
    let Some(python) = python else {
        println!("left out: CTSEG_TEST_PYTHON names no Python with kubernetes-validate");
        return;
    };
    let output = Command::new(python)
        .arg(format!("{SCRIPTS}/k8s/check.py"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// Takes minutes, Debian's packages, and root: only where it is asked for.
#[test]
fn the_image_begins_trains_and_predicts_as_its_own_user() {
    if std::env::var_os("CTSEG_TEST_CONTAINER").is_none() {
        println!("left out: CTSEG_TEST_CONTAINER is not set");
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let script = |name: &str, arguments: &[&str]| {
        let output = Command::new(format!("{SCRIPTS}/container/{name}"))
            .args(arguments)
            .env("CTSEG_IMAGES", images.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", said(&output));
    };
    // The image has no MPI: where this build is bound to it, one is compiled inside.
    let mut build = vec!["--local-base"];
    if !cfg!(feature = "mpi") {
        build.extend(["--prebuilt", env!("CARGO_BIN_EXE_ctseg")]);
    }
    script("build.sh", &build);
    script("test.sh", &[]);
}
