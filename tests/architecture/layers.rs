//! Every module of a crate has a layer, and imports only from its own layer and those below it.

/// For each crate its modules in layers, the lowest first. A name is a file or a folder below the crate's `src/`, with
/// all its content; `folder/name` gives a part of a folder its own layer. `lib.rs` is above all.
const LAYERS: &[(&str, &[&[&str]])] = &[
    (
        "base",
        &[
            &[
                "error",
                "mean",
                "memory_semaphore",
                "pointer_file",
                "process",
                "progress",
                "progress_counts",
                "regular_file",
                "text",
            ],
            &["atomic_file", "cancel", "disk_full", "hash", "limits"],
            &["failures", "replace_folder", "temp_files"],
            &["unzip"],
        ],
    ),
    (
        "image",
        &[
            &[
                "connectivity",
                "formats/names",
                "formats/voxel_type",
                "labels",
                "labels/smooth",
                "metrics",
                "metrics/calibration",
                "metrics/distance_transform",
                "metrics/wilcoxon",
                "nifti/gzip",
                "nifti/raw",
                "space",
                "window",
            ],
            &[
                "formats/header",
                "formats/source",
                "labels/bounding_box",
                "labels/components",
                "labels/run_length_mask",
                "metrics/overlap",
                "metrics/surface",
                "nifti/datatype",
                "nifti/geometry",
                "nifti/names",
                "resample",
            ],
            &[
                "formats/foreign",
                "labels/holes",
                "labels/largest",
                "labels/run_length_labels",
                "labels/small",
                "metrics/lesions",
                "metrics/summary",
                "nifti/header",
                "nifti/identify",
                "preprocess",
                "statistics",
            ],
            &["formats/format", "labels/postprocess", "nifti/read_header"],
            &["nifti/label_names"],
            &["nifti/read", "nifti/write"],
            &["nifti/format", "nifti/maps"],
            &["formats/registry", "nifti/channels"],
            &["formats", "nifti"],
        ],
    ),
    (
        "augment",
        &[
            &[
                "config",
                "draw",
                "elastic",
                "field_of_view",
                "plane",
                "simd",
            ],
            &["dropout", "fast_math", "interpolation", "streaks"],
            &["affine_grid", "affine_grid_3d", "hounsfield", "intensity"],
            &["common"],
            &["slice", "volume"],
        ],
    ),
    (
        "phantom",
        &[
            &["case_rng", "noise", "vectors"],
            &["bounds", "field", "patient"],
            &["shapes"],
            &["layers"],
            &["frame", "slices"],
            &["organs"],
            &["anatomy"],
        ],
    ),
    (
        "engine",
        &[
            &[
                "attention_maps",
                "batch",
                "distributed",
                "host_tensor",
                "named_parameters",
                "optim",
                "precision",
                "quantisation",
            ],
            &["blocks", "device", "freezing", "losses"],
            &["networks", "self_test"],
            &["weights"],
            &["learner", "torch_checkpoint"],
            &["engine"],
            &["flex", "inference", "libtorch"],
            &["benchmark", "registry"],
        ],
    ),
    (
        "core",
        &[
            &["recipe"],
            &["dataset", "run"],
            &["model"],
            &["inference"],
            &["outputs"],
        ],
    ),
    (
        "predict",
        &[
            &[
                "case_state",
                "preflight",
                "quantise",
                "shard",
                "statistics_csv",
            ],
            &["claims"],
            &["job", "queue"],
            &["case", "existing", "manifest"],
            &["record"],
            &["stages"],
        ],
    ),
    (
        "evaluate",
        &[
            &["metrics", "tolerances"],
            &["scores"],
            &["case_scores"],
            &["compare"],
            &["evaluation"],
            &["calibration", "files", "summary", "tracking"],
            &["paired"],
        ],
    ),
    (
        "interop",
        &[&["convert", "nnunet", "safetensors"], &["totalsegmentator"]],
    ),
    (
        "http",
        &[
            &["failure", "login", "resolver", "retry", "tls"],
            &["client"],
        ],
    ),
    (
        "tracking",
        &[&["prometheus", "provenance", "system_metrics"], &["mlflow"]],
    ),
    (
        "train",
        &[
            &[
                "choose_postprocessing",
                "cross_validation",
                "data",
                "diagnosis",
                "plan",
            ],
            &["overlays", "trainer"],
            &["fit"],
            &["sweep"],
        ],
    ),
    (
        "report",
        &[
            &["data", "pictures"],
            &["calibration_diagram", "curves"],
            &["html"],
        ],
    ),
    ("ctseg", &[&["doctor", "log", "slurm", "status"], &["cli"]]),
];

use std::collections::BTreeSet;

use crate::imports::{Package, packages};
use crate::parsed::File;
use crate::sources::{FILES, planted};

type Layers<'a> = &'a [&'a [&'a str]];

/// The table entry that a file belongs to, and its layer; `lib.rs` needs no entry.
fn layer_of<'a>(file: &File, layers: Layers<'a>) -> Option<(&'a str, usize)> {
    let named = (0..=file.module.len()).rev().find_map(|length| {
        let path = file.module[..length].join("/");
        let layer = layers
            .iter()
            .position(|names| names.contains(&path.as_str()))?;
        let name = layers[layer].iter().find(|name| **name == path)?;
        Some((*name, layer))
    });
    named.or_else(|| file.module.is_empty().then_some(("lib.rs", layers.len())))
}

/// Names that are twice in a crate's table, names without a module, and files without an entry.
fn misnamed(package: &Package, layers: Layers) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for name in layers.iter().copied().flatten() {
        if !seen.insert(name) {
            faults.push(format!("{}: `{name}` is named twice", package.name));
        }
        let parts: Vec<&str> = name.split('/').collect();
        let mut modules = package.files().map(|file| &file.module);
        if !modules.any(|module| {
            module.len() >= parts.len() && module.iter().zip(&parts).all(|(a, b)| a == b)
        }) {
            faults.push(format!("{}: there is no module `{name}`", package.name));
        }
    }
    for file in package.files() {
        if layer_of(file, layers).is_none() {
            faults.push(format!("{}: no layer names this module", file.path));
        }
    }
    faults
}

/// Imports from a higher layer, and the number of imports between different entries of the table.
fn upward(package: &Package, layers: Layers) -> (BTreeSet<String>, usize) {
    let mut faults = BTreeSet::new();
    let mut seen = 0;
    for import in package.imports() {
        let (from, to) = (layer_of(import.from, layers), layer_of(import.to, layers));
        let (Some((from, low)), Some((to, high))) = (from, to) else {
            continue;
        };
        seen += usize::from(from != to);
        if low < high {
            let (path, name) = (&import.from.path, &import.name);
            faults.insert(format!(
                "{path}: `{from}` imports {name} of `{to}`, which is above it"
            ));
        }
    }
    (faults, seen)
}

/// All faults of all crates, and the number of imports seen.
fn faults(packages: &[Package], table: &[(&str, Layers)]) -> (Vec<String>, usize) {
    let mut faults = Vec::new();
    let mut seen = 0;
    for (name, _) in table {
        if !packages.iter().any(|package| package.name == *name) {
            faults.push(format!("there is no crate {name}"));
        }
    }
    for package in packages {
        let Some((_, layers)) = table.iter().find(|(name, _)| *name == package.name) else {
            faults.push(format!("crate {} has no layers", package.name));
            continue;
        };
        faults.extend(misnamed(package, layers));
        let (upward, imports) = upward(package, layers);
        faults.extend(upward);
        seen += imports;
    }
    (faults, seen)
}

#[test]
fn layers_import_downward_only() {
    let (faults, seen) = faults(&packages(&FILES), LAYERS);
    assert!(seen > 500, "only {seen} imports seen");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

const PLANTED: [(&str, &str); 6] = [
    (
        "crates/image/src/lib.rs",
        "mod a; mod b; mod folder; pub use b::B;",
    ),
    ("crates/image/src/a.rs", "pub struct A;"),
    (
        "crates/image/src/b.rs",
        "pub struct B(crate::a::A); #[cfg(test)] mod tests { use crate::folder::Up; }",
    ),
    (
        "crates/image/src/folder/mod.rs",
        "mod deep; mod top; pub use deep::Up; use crate::b::B;",
    ),
    (
        "crates/image/src/folder/deep.rs",
        "pub struct Up(crate::B);",
    ),
    (
        "crates/image/src/folder/top.rs",
        "pub struct Top(super::Up);",
    ),
];

fn planted_faults(layers: Layers) -> Vec<String> {
    faults(&packages(&planted(&PLANTED)), &[("image", layers)]).0
}

#[test]
fn downward_imports_and_those_of_tests_are_legal() {
    let files = planted(&PLANTED);
    let packages = packages(&files);
    let layers: Layers = &[&["a"], &["b"], &["folder"]];
    assert_eq!(faults(&packages, &[("image", layers)]), (vec![], 4));
    assert!(planted_faults(&[&["a", "b"], &["folder/deep"], &["folder", "folder/top"]]).is_empty());
    assert!(planted_faults(&[&["a", "b", "folder"]]).is_empty());
}

#[test]
fn upward_imports_are_found() {
    assert_eq!(
        planted_faults(&[&["b"], &["a"], &["folder"]]),
        ["crates/image/src/b.rs: `b` imports A of `a`, which is above it"]
    );
    // Through a re-export of lib.rs, and inside a folder.
    assert_eq!(
        planted_faults(&[&["a"], &["folder/top"], &["folder"], &["b"]]),
        [
            "crates/image/src/folder/deep.rs: `folder` imports B of `b`, which is above it",
            "crates/image/src/folder/mod.rs: `folder` imports B of `b`, which is above it",
            "crates/image/src/folder/top.rs: `folder/top` imports Up of `folder`, which is above it",
        ]
    );
}

#[test]
fn modules_without_a_layer_and_names_without_a_module_are_found() {
    assert_eq!(
        planted_faults(&[&["a"], &["folder", "a", "fold"]]),
        [
            "image: `a` is named twice",
            "image: there is no module `fold`",
            "crates/image/src/b.rs: no layer names this module",
        ]
    );
    let files = planted(&PLANTED);
    assert_eq!(
        faults(&packages(&files), &[("core", &[])]).0,
        ["there is no crate core", "crate image has no layers"]
    );
}
