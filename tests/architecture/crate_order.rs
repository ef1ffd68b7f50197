//! The crates of the workspace depend on crates below them only.

use std::collections::BTreeMap;

use crate::sources::root;

/// The lowest first. The last is the root package; the others are the folders of `crates/`, packages `ctseg-NAME`.
const ORDER: [&str; 14] = [
    "base", "image", "augment", "phantom", "engine", "core", "predict", "evaluate", "interop",
    "http", "tracking", "train", "report", "ctseg",
];

/// The faults of the manifests (by crate name), and the number of dependencies between the crates.
fn faults(manifests: &BTreeMap<String, String>) -> (Vec<String>, usize) {
    let mut faults = Vec::new();
    let mut seen = 0;
    for name in ORDER.iter().filter(|name| !manifests.contains_key(**name)) {
        faults.push(format!("there is no crate {name}"));
    }
    for (name, text) in manifests {
        let Some(place) = ORDER.iter().position(|other| other == name) else {
            faults.push(format!("crate {name} has no place in the order"));
            continue;
        };
        let manifest: toml::Table = text
            .parse()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let package = manifest["package"]["name"].as_str();
        if package.map(crate_of) != Some(Some(name)) {
            faults.push(format!("crate {name} is the package {package:?}"));
        }
        for other in dependencies(&manifest) {
            seen += 1;
            if !ORDER[..place].contains(&other.as_str()) {
                faults.push(format!("{name} depends on {other}, which is not below it"));
            }
        }
    }
    (faults, seen)
}

/// The crate name of a package of the workspace.
fn crate_of(package: &str) -> Option<&str> {
    let root = (package == "ctseg").then_some(package);
    root.or_else(|| package.strip_prefix("ctseg-"))
}

/// The workspace crates that a manifest depends on, including those for tests, build scripts and single platforms.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let platforms = manifest.get("target").and_then(toml::Value::as_table);
    let platforms = platforms.into_iter().flat_map(toml::Table::values);
    let tables = platforms
        .filter_map(toml::Value::as_table)
        .chain([manifest]);
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let lists = tables.flat_map(|table| {
        kinds
            .into_iter()
            .filter_map(|kind| table.get(kind)?.as_table())
    });
    let packages = lists.flatten().map(|(key, value)| {
        let renamed = value.get("package").and_then(toml::Value::as_str);
        renamed.unwrap_or(key)
    });
    packages.filter_map(crate_of).map(str::to_owned).collect()
}

#[test]
fn crates_depend_downward_only() {
    let folder = root().join("crates");
    if !folder.exists() {
        return;
    }
    let folders = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap());
    let folders = folders.filter(|entry| entry.path().is_dir());
    let folders = folders.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    let manifests: BTreeMap<String, String> = folders
        .chain([("ctseg".to_owned(), root().to_owned())])
        .map(|(name, folder)| {
            (
                name,
                std::fs::read_to_string(folder.join("Cargo.toml")).unwrap(),
            )
        })
        .collect();
    let (faults, seen) = faults(&manifests);
    assert!(seen > 20, "only {seen} dependencies seen");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Manifests of all crates without dependencies; that of `changed` also has `lines`.
fn planted(changed: &str, lines: &str) -> BTreeMap<String, String> {
    let manifests = ORDER.map(|name| {
        let package = if name == "ctseg" {
            name.to_owned()
        } else {
            format!("ctseg-{name}")
        };
        let lines = if name == changed { lines } else { "" };
        (
            name.to_owned(),
            format!("[package]\nname = \"{package}\"\n{lines}"),
        )
    });
    manifests.into()
}

#[test]
fn dependencies_that_point_downward_are_legal() {
    let lines = "[dependencies]\nctseg-base = { path = \"../base\" }\nctseg-core.workspace = true\nctsegment = \"1\"";
    assert_eq!(faults(&planted("train", lines)), (vec![], 2));
}

#[test]
fn dependencies_that_point_upward_are_found() {
    for lines in [
        "[dependencies]\nctseg-train = { path = \"../train\" }",
        "[dev-dependencies]\nctseg-train.workspace = true",
        "[dependencies]\nlearning = { package = \"ctseg-train\", path = \"../train\" }",
        "[target.'cfg(unix)'.dependencies]\nctseg-train.workspace = true",
    ] {
        let text = "image depends on train, which is not below it".to_owned();
        assert_eq!(faults(&planted("image", lines)), (vec![text], 1), "{lines}");
    }
}

#[test]
fn crates_outside_the_order_are_found() {
    let mut manifests = planted("", "");
    let core = manifests.remove("core").unwrap();
    manifests.insert("kernel".to_owned(), core);
    let wrong = manifests["base"].replace("ctseg-base", "base");
    manifests.insert("base".to_owned(), wrong);
    let expected = [
        "there is no crate core",
        "crate base is the package Some(\"base\")",
        "crate kernel has no place in the order",
    ];
    assert_eq!(faults(&manifests).0, expected);
}
