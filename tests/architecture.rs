//! The layers import downward only, a few crates are known in one place only, and links between pages lead somewhere.

use std::path::{Path, PathBuf};

/// For each layer the layers that it may name.
const MAY_KNOW: [(&str, &[&str]); 6] = [
    ("values", &["values"]),
    ("arrays", &["arrays", "values"]),
    ("tensors", &["tensors"]),
    ("pipeline", &["pipeline", "tensors", "arrays", "values"]),
    (
        "outside",
        &["outside", "pipeline", "tensors", "arrays", "values"],
    ),
    (
        "cli",
        &["cli", "outside", "pipeline", "tensors", "arrays", "values"],
    ),
];

/// Crates and the only places that may name them.
const ONLY_IN: [(&str, &[&str]); 17] = [
    ("burn::", &["tensors", "pipeline"]),
    ("burn_tch::", &["tensors/libtorch"]),
    ("tch::", &["tensors/libtorch"]),
    ("torch_sys::", &["tensors/libtorch"]),
    ("clap::", &["cli", "main.rs"]),
    ("indicatif::", &["outside/progress.rs"]),
    ("safetensors::", &["tensors/weights.rs"]),
    ("flate2::", &["arrays/nifti", "outside/report/sheet.rs"]),
    ("toml::", &["pipeline", "cli"]),
    ("reqwest::", &["outside/http"]),
    ("rustls::", &["outside/http"]),
    ("image::", &["outside/pictures"]),
    ("plotters::", &["outside/pictures"]),
    ("minijinja::", &["outside/report/page.rs"]),
    ("zip::", &["tensors/torch_file", "unzip.rs"]),
    ("base64::", &["outside/report/sheet.rs"]),
    ("noto_sans_mono_bitmap::", &["outside/pictures"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every source file: its path below `src/` and its lines without comments.
fn files() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .map(str::to_owned);
            (
                path.strip_prefix(&root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
                lines.collect(),
            )
        })
        .collect()
}

#[test]
fn layers_import_downward_only() {
    let files = files();
    let mut imports = 0;
    for (path, lines) in &files {
        let Some((_, allowed)) = MAY_KNOW
            .iter()
            .find(|(layer, _)| path.starts_with(&format!("{layer}/")))
        else {
            continue;
        };
        for line in lines {
            for part in line.split("crate::").skip(1) {
                assert!(
                    !part.starts_with('{'),
                    "src/{path}: one crate:: path a line, so that this check sees it: {line}"
                );
                let module: String = part
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if MAY_KNOW.iter().any(|(layer, _)| *layer == module) {
                    imports += 1;
                    assert!(
                        allowed.contains(&module.as_str()),
                        "src/{path} names crate::{module}: {line}"
                    );
                }
            }
        }
    }
    assert!(
        imports > 50,
        "only {imports} imports seen; the check looks at nothing"
    );
}

#[test]
fn heavy_crates_are_known_in_one_place() {
    for (path, lines) in files() {
        for (name, places) in ONLY_IN {
            let named = lines.iter().any(|line| {
                line.match_indices(name).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                })
            });
            assert!(
                !named || places.iter().any(|place| path.starts_with(place)),
                "src/{path} names {name}, which belongs to {places:?}"
            );
        }
    }
}

#[test]
fn main_stays_thin() {
    let main =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs")).unwrap();
    assert!(main.lines().count() < 60);
}

/// What follows each `](` of a text, up to the closing bracket.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// A heading as pages name the place that it stands at.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guides = std::fs::read_dir(root.join("docs")).unwrap();
    let guides = guides.map(|entry| entry.unwrap().path());
    let pages = guides.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let pages = pages.chain(["README.md", "benches/README.md"].map(|page| root.join(page)));
    let mut followed = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", page.display());
            if !place.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|heading| anchor(heading) == place),
                    "{}: {link}",
                    page.display()
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 20, "{followed}");
}
