//! Files that others may have put there are opened in one place: no FIFO is waited for, no file fills the memory.

use crate::sources::{SOURCES, Sources, place_in_crate};

/// Ways to open files that may be there already, and to read them without a limit.
const WAYS: [&str; 9] = [
    "fs::read(",
    "fs::read_to_string(",
    "File::open(",
    "File::options()",
    "OpenOptions::new()",
    "from_path(",
    "fs::copy(",
    "fs::write(",
    "File::create(",
];

/// Files of the system, where their names stand with the call.
const OF_THE_SYSTEM: [&str; 2] = ["/proc/", "/etc/"];

/// Who opens files in another way, and why.
const PLACES: [(&str, &str); 5] = [
    ("crates/base/src/regular_file.rs", "the one place"),
    ("crates/base/src/atomic_file.rs", "folders, to sync them"),
    ("crates/base/src/limits/", "files of /proc and /sys"),
    ("crates/base/src/process/id.rs", "files of /proc"),
    (
        "src/doctor/gpu.rs",
        "devices, to see whether they can be opened",
    ),
];

/// Where files are opened in another way, and places of the list that open none.
fn faults(sources: &Sources, places: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut unseen: Vec<&str> = places.iter().map(|(place, _)| *place).collect();
    for (path, text) in sources {
        let is_of_tests = path.ends_with("tests.rs") || path.contains("/golden");
        let code = text.split("#[cfg(test)]\nmod tests {").next();
        let Some(code) = code.filter(|_| place_in_crate(path).is_some() && !is_of_tests) else {
            continue;
        };
        for way in WAYS.iter().filter(|way| opens(code, way)) {
            match places.iter().find(|(place, _)| path.starts_with(place)) {
                Some((place, _)) => unseen.retain(|other| other != place),
                None => faults.push(format!(
                    "{path}: `{way}`; use ctseg_base::regular_file or ctseg_base::text::file"
                )),
            }
        }
    }
    faults.extend(
        unseen
            .iter()
            .map(|place| format!("{place} opens no file itself")),
    );
    faults
}

/// Whether the code opens files in this way, other than those of the system.
fn opens(code: &str, way: &str) -> bool {
    code.match_indices(way).any(|(at, _)| {
        // `TorchFile::open` is another function.
        let is_whole = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &code[at + way.len()..];
        let name = rest.trim_start_matches("format!(").strip_prefix('"');
        let is_of_the_system =
            name.is_some_and(|name| OF_THE_SYSTEM.iter().any(|place| name.starts_with(place)));
        is_whole && !is_of_the_system
    })
}

#[test]
fn files_are_opened_in_one_place() {
    let faults = faults(&SOURCES, &PLACES);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_that_are_opened_elsewhere_are_found() {
    let sources = [
        (
            "crates/a/src/b.rs",
            "fn f() { std::fs::read(path); TorchFile::open(path); }",
        ),
        (
            "src/c.rs",
            "fn f() { fs::read_to_string(format!(\"/proc/{pid}/stat\")); }\n#[cfg(test)]\nmod tests { File::open(p); }",
        ),
        (
            "src/d.rs",
            "use std::fs::File; fn f() { File::open(path); }",
        ),
        (
            "src/f.rs",
            "#[cfg(test)]\nmod tests;\nfn f() { fs::write(\"/proc/self/x\", b); std::fs::copy(a, b); }",
        ),
        ("tests/e.rs", "fn f() { std::fs::read(path); }"),
    ];
    let sources = sources.map(|(path, text)| (path.to_owned(), text.to_owned()));
    let found = faults(
        &Sources::from(sources),
        &[("src/d.rs", ""), ("src/e.rs", "")],
    );
    let advice = "use ctseg_base::regular_file or ctseg_base::text::file";
    let read = format!("crates/a/src/b.rs: `fs::read(`; {advice}");
    let copied = format!("src/f.rs: `fs::copy(`; {advice}");
    let unseen = "src/e.rs opens no file itself";
    assert_eq!(found, [read.as_str(), copied.as_str(), unseen]);
}
