//! scripts/setup-libtorch.sh in copies of the checkout, with fake libtorch folders and a fake pip.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCRIPT: &str = "scripts/setup-libtorch.sh";

/// A folder with a copy of the script, an empty cache and a folder of programs that are first in PATH.
struct Checkout {
    folder: tempfile::TempDir,
}

impl Checkout {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["scripts", "cache", "programs"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(SCRIPT);
        fs::copy(script, folder.path().join(SCRIPT)).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path(".cargo/config.toml")
    }

    fn program(&self, name: &str, body: &str) {
        let path = self.path("programs").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &Path)]) -> Output {
        let path = format!(
            "{}:{}",
            self.path("programs").display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new(self.path(SCRIPT));
        command.args(arguments).current_dir("/").env("PATH", path);
        for name in ["LIBTORCH", "VIRTUAL_ENV", "CONDA_PREFIX"] {
            command.env_remove(name);
        }
        command
            .env("CTSEG_CACHE", self.path("cache"))
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    /// Runs the script, which must succeed; returns stdout.
    fn stdout(&self, arguments: &[&str], variables: &[(&str, &Path)]) -> String {
        let output = self.run(arguments, variables);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the script, which must fail with one line on stderr; returns it.
    fn error(&self, arguments: &[&str], variables: &[(&str, &Path)]) -> String {
        let output = self.run(arguments, variables);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        log
    }
}

/// Writes the files of a libtorch that the script checks.
fn libtorch(folder: &Path, [major, minor, patch]: [u32; 3], header: &str) {
    let header = folder.join("include").join(header);
    fs::create_dir_all(folder.join("lib")).unwrap();
    fs::create_dir_all(header.parent().unwrap()).unwrap();
    fs::write(folder.join("lib/libtorch.so"), "").unwrap();
    let text = format!(
        "#pragma once\n#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {minor}\n\
         #define TORCH_VERSION_PATCH {patch}\n#define TORCH_VERSION_ABI_TAG 0\n"
    );
    fs::write(header, text).unwrap();
}

const HEADER: &str = "torch/headeronly/version.h";
const OLD_HEADER: &str = "torch/csrc/api/include/torch/version.h";

#[derive(serde::Deserialize)]
struct Config {
    env: std::collections::BTreeMap<String, String>,
}

#[test]
fn the_required_version_is_written_to_the_cargo_config() {
    let checkout = Checkout::new();
    let torch = checkout.path("it is here/torch");
    libtorch(&torch, [2, 11, 0], HEADER);
    let printed = checkout.stdout(&[], &[("LIBTORCH", &torch)]);
    assert!(
        printed.contains("cargo build --release --features libtorch"),
        "{printed}"
    );
    let text = fs::read_to_string(checkout.config()).unwrap();
    let config: Config = toml::from_str(&text).unwrap();
    assert_eq!(config.env["LIBTORCH"], torch.to_str().unwrap());
    assert_eq!(config.env["LIBTORCH_BYPASS_VERSION_CHECK"], "1");

    // Again, and with another libtorch: the script replaces its own file.
    checkout.stdout(&[], &[("LIBTORCH", &torch)]);
    assert_eq!(fs::read_to_string(checkout.config()).unwrap(), text);
    let other = checkout.path("other");
    libtorch(&other, [2, 11, 0], OLD_HEADER);
    checkout.stdout(&[], &[("LIBTORCH", &other)]);
    let config: Config = toml::from_str(&fs::read_to_string(checkout.config()).unwrap()).unwrap();
    assert_eq!(config.env["LIBTORCH"], other.to_str().unwrap());
    let left: Vec<_> = fs::read_dir(checkout.path(".cargo")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn other_versions_and_folders_are_refused_in_one_line() {
    let checkout = Checkout::new();
    let torch = checkout.path("torch");
    for (version, header) in [([2, 9, 0], HEADER), ([2, 1, 2], OLD_HEADER)] {
        libtorch(&torch, version, header);
        let log = checkout.error(&[], &[("LIBTORCH", &torch)]);
        let found = version.map(|part| part.to_string()).join(".");
        for part in [found.as_str(), "2.11.0", torch.to_str().unwrap(), "unset"] {
            assert!(log.contains(part), "{part} not in {log}");
        }
        fs::remove_dir_all(&torch).unwrap();
    }
    let log = checkout.error(&[], &[("LIBTORCH", &torch)]);
    assert!(log.contains("lib/libtorch.so is missing"), "{log}");
    libtorch(&torch, [2, 11, 0], "elsewhere.h");
    let log = checkout.error(&[], &[("LIBTORCH", &torch)]);
    assert!(log.contains("no version"), "{log}");
    assert!(!checkout.path(".cargo").exists());
    assert!(checkout.error(&["--prnt"], &[]).contains("--prnt"));
}

#[test]
fn an_existing_cargo_config_is_left_alone() {
    let checkout = Checkout::new();
    let torch = checkout.path("torch");
    libtorch(&torch, [2, 11, 0], HEADER);
    let theirs = "[build]\njobs = 3\n";
    fs::create_dir(checkout.path(".cargo")).unwrap();
    fs::write(checkout.config(), theirs).unwrap();
    let output = checkout.run(&[], &[("LIBTORCH", &torch)]);
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    let (_, to_add) = log.split_once("\n\n").unwrap();
    assert_eq!(fs::read_to_string(checkout.config()).unwrap(), theirs);

    // With the printed lines added the script succeeds.
    fs::write(checkout.config(), format!("{theirs}{to_add}")).unwrap();
    let config: Config = toml::from_str(&format!("{theirs}{to_add}")).unwrap();
    assert_eq!(config.env["LIBTORCH"], torch.to_str().unwrap());
    checkout.stdout(&[], &[("LIBTORCH", &torch)]);
}

#[test]
fn the_active_python_environment_comes_before_the_cache() {
    let checkout = Checkout::new();
    let environment = checkout.path("environment");
    let torch = environment.join("lib/python3.12/site-packages/torch");
    libtorch(&torch, [2, 11, 0], HEADER);
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let printed = checkout.stdout(&["--print"], &[(name, &environment)]);
        assert_eq!(printed, format!("{}\n", torch.display()));
    }
    libtorch(&torch, [2, 12, 1], HEADER);
    let log = checkout.error(&["--print"], &[("VIRTUAL_ENV", &environment)]);
    assert!(log.contains("2.12.1") && log.contains("2.11.0"), "{log}");
    let named = checkout.path("named");
    libtorch(&named, [2, 11, 0], HEADER);
    let variables: [(&str, &Path); 2] = [("VIRTUAL_ENV", &environment), ("LIBTORCH", &named)];
    let printed = checkout.stdout(&["--print"], &variables);
    assert_eq!(printed, format!("{}\n", named.display()));
    assert!(!checkout.path(".cargo").exists());
}

/// Adds a `python3` whose `-m venv` creates an environment with a pip that copies the folder `wheel`, records the run
/// in `runs` and exits with the status in the file `status`.
fn fake_python(checkout: &Checkout) {
    libtorch(&checkout.path("wheel"), [2, 11, 0], HEADER);
    let root = checkout.folder.path().display();
    checkout.program(
        "pip",
        &format!(
            "echo \"$@\" >>'{root}/runs'\n\
         packages=\"$(dirname \"$0\")/../lib/python3.11/site-packages\"\n\
         mkdir -p \"$packages\" && cp -r '{root}/wheel' \"$packages/torch\"\n\
         exit \"$(cat '{root}/status')\""
        ),
    );
    checkout.program(
        "python3",
        &format!(
            "[ \"$1\" = --version ] && echo Python 3.11.7 && exit\n\
         mkdir -p \"$3/bin\" && cp '{root}/programs/pip' \"$3/bin/python\""
        ),
    );
    fake_df(checkout, 20);
}

/// Adds a `df` that reports `gb` GB free.
fn fake_df(checkout: &Checkout, gb: u64) {
    let kb = gb * 1024 * 1024;
    checkout.program("df", &format!("printf 'head\\n/dev/x 9 9 {kb} 9%% /\\n'"));
}

#[test]
fn an_interrupted_installation_is_repeated_and_a_complete_one_kept() {
    let checkout = Checkout::new();
    fake_python(&checkout);
    let runs = || {
        fs::read_to_string(checkout.path("runs"))
            .unwrap()
            .lines()
            .count()
    };
    fs::write(checkout.path("status"), "1").unwrap();
    let output = checkout.run(&["--print"], &[]);
    assert!(
        !output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("pip could not install torch==2.11.0"), "{log}");

    fs::write(checkout.path("status"), "0").unwrap();
    let printed = checkout.stdout(&["--print"], &[]);
    let expected = "cache/libtorch-2.11.0/lib/python3.11/site-packages/torch";
    assert_eq!(printed, format!("{}\n", checkout.path(expected).display()));
    assert_eq!(runs(), 2);
    assert_eq!(checkout.stdout(&["--print"], &[]), printed);
    assert_eq!(runs(), 2);

    // A cache folder on the command line beats the environment's.
    let other = checkout.path("other");
    let printed = checkout.stdout(&["--print", other.to_str().unwrap()], &[]);
    assert!(printed.starts_with(other.to_str().unwrap()), "{printed}");
    assert_eq!(runs(), 3);
}

#[test]
fn too_little_disk_space_is_reported_before_installing() {
    let checkout = Checkout::new();
    fake_python(&checkout);
    fake_df(&checkout, 3);
    let log = checkout.error(&[], &[]);
    assert!(log.contains("3 GB free") && log.contains("8 GB"), "{log}");
    assert!(!checkout.path("runs").exists());
    assert!(!checkout.path("cache/libtorch-2.11.0").exists());
}
