//! Large or replaceable crates are named in one place only.

use std::collections::BTreeSet;

use crate::imports::packages;
use crate::parsed::File;
use crate::sources::{FILES, planted};

/// Crates and the only paths in the repository that may name them.
const ONLY_IN: [(&str, &[&str]); 19] = [
    ("burn", &["crates/engine/src"]),
    ("burn_tch", &["crates/engine/src/libtorch"]),
    ("tch", &["crates/engine/src/libtorch"]),
    ("torch_sys", &["crates/engine/src/libtorch"]),
    ("mpi", &["crates/engine/src/distributed/mpi.rs"]),
    ("clap", &["src/cli"]),
    ("indicatif", &["src/log/terminal.rs"]),
    ("safetensors", &["crates/engine/src/weights.rs"]),
    (
        "flate2",
        &[
            "crates/image/src/formats",
            "crates/image/src/nifti",
            "crates/report/src/html/sheet.rs",
        ],
    ),
    ("reqwest", &["crates/http/src"]),
    ("rustls", &["crates/http/src"]),
    ("libc", &["crates/base/src", "crates/engine/src"]),
    ("png", &["crates/report/src/pictures/mod.rs"]),
    ("jpeg_encoder", &["crates/report/src/pictures/jpeg.rs"]),
    ("plotters", &["crates/report/src/pictures"]),
    ("minijinja", &["crates/report/src/html/page.rs"]),
    (
        "zip",
        &[
            "crates/engine/src/torch_checkpoint",
            "crates/base/src/unzip.rs",
        ],
    ),
    ("base64", &["crates/report/src/html/sheet.rs"]),
    ("noto_sans_mono_bitmap", &["crates/report/src/pictures"]),
];

/// Files that name a crate outside its places, and places in the table that do not name their crate.
fn faults(files: &[File], only_in: &[(&str, &[&str])]) -> Vec<String> {
    let mut faults = Vec::new();
    let pairs = only_in
        .iter()
        .flat_map(|(name, places)| places.iter().map(move |place| (*name, *place)));
    let mut unseen: BTreeSet<(&str, &str)> = pairs.collect();
    for package in packages(files) {
        for file in package.all_files() {
            for name in package.names_outside(file) {
                let Some((_, places)) = only_in.iter().find(|(heavy, _)| *heavy == name) else {
                    continue;
                };
                match places.iter().find(|place| file.path.starts_with(**place)) {
                    Some(place) => drop(unseen.remove(&(name, *place))),
                    None => faults.push(format!(
                        "{} names {name}, which belongs to {places:?}",
                        file.path
                    )),
                }
            }
        }
    }
    faults.extend(
        unseen
            .iter()
            .map(|(name, place)| format!("{place} does not name {name}")),
    );
    faults
}

#[test]
fn heavy_crates_are_named_in_one_place() {
    let faults = faults(&FILES, &ONLY_IN);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn heavy_crates_named_elsewhere_are_found() {
    let text = "src/b.rs names burn, which belongs to [\"src/a\"]";
    for code in [
        "use burn::tensor::Tensor;",
        "use ::burn as engine;",
        "fn f(x: burn::Tensor) {}",
        "fn f() { vec![x.y, burn::Tensor::new()]; }",
        "#[cfg(test)] mod tests { use burn::Tensor; }",
    ] {
        let files = planted(&[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a/mod.rs", "mod c;"),
            ("src/a/c.rs", "use burn::Tensor;"),
            ("src/b.rs", code),
        ]);
        assert_eq!(faults(&files, &[("burn", &["src/a"])]), [text], "{code}");
    }
}

#[test]
fn modules_with_the_name_of_a_heavy_crate_are_legal() {
    let files = planted(&[
        (
            "src/lib.rs",
            "mod image; mod b; pub use image::Volume; fn f() { image::open() }",
        ),
        ("src/image.rs", "pub struct Volume; pub fn open() {}"),
        (
            "src/b.rs",
            "use crate::image; use std::image::X; fn f() { image::open(); ctseg_image::open(); x.image::<u8>() }",
        ),
    ]);
    assert_eq!(
        faults(&files, &[("image", &["src/b"])]),
        ["src/b does not name image"]
    );
}
