//! The source files that the checks read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use crate::parsed::File;

/// Texts by their path in the repository, such as `src/main.rs`.
pub type Sources = BTreeMap<String, String>;

/// All Rust files of the command, the libraries, the examples and the tests.
pub static SOURCES: LazyLock<Sources> = LazyLock::new(|| {
    let mut sources = Sources::new();
    for folder in ["src", "crates", "examples", "tests"] {
        read_below(folder, &mut sources);
    }
    sources
});

/// The same files, parsed once for all checks.
pub static FILES: LazyLock<Vec<File>> = LazyLock::new(|| parse(&SOURCES));

pub fn parse(sources: &Sources) -> Vec<File> {
    sources
        .iter()
        .map(|(path, text)| File::parse(path, text))
        .collect()
}

/// The repository's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read_below(folder: &str, sources: &mut Sources) {
    let Ok(entries) = std::fs::read_dir(root().join(folder)) else {
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            read_below(&path, sources);
        } else if path.ends_with(".rs") {
            sources.insert(path, std::fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// A crate of the workspace and the path of a file in it, for `src/PATH` and `crates/NAME/src/PATH`.
pub fn place_in_crate(path: &str) -> Option<(&str, &str)> {
    if let Some(inside) = path.strip_prefix("src/") {
        return Some(("ctseg", inside));
    }
    let (name, rest) = path.strip_prefix("crates/")?.split_once('/')?;
    Some((name, rest.strip_prefix("src/")?))
}

/// Made-up files, parsed.
pub fn planted(files: &[(&str, &str)]) -> Vec<File> {
    let texts = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    parse(&texts.collect())
}
