//! Files from users are opened in one place, so that no FIFO blocks and no file fills the memory.

use crate::sources::{SOURCES, Sources, place_in_crate};

/// Calls that open existing files or read them without a limit.
const CALLS: [&str; 9] = [
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

/// Prefixes of system files that are allowed as literals in such a call.
const SYSTEM_FILES: [&str; 2] = ["/proc/", "/etc/"];

/// Files that may use these calls, and why.
const ALLOWED: [(&str, &str); 5] = [
    ("crates/base/src/regular_file.rs", "the one allowed place"),
    ("crates/base/src/atomic_file.rs", "folders, to sync them"),
    ("crates/base/src/limits/", "files of /proc and /sys"),
    ("crates/base/src/process/id.rs", "files of /proc"),
    ("src/doctor/gpu.rs", "devices, to check access"),
];

/// Files that use these calls without being listed, and listed files that do not use them.
fn faults(sources: &Sources, places: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut unseen: Vec<&str> = places.iter().map(|(place, _)| *place).collect();
    for (path, text) in sources {
        let is_test = path.ends_with("tests.rs") || path.contains("/golden");
        let code = text.split("#[cfg(test)]\nmod tests {").next();
        let Some(code) = code.filter(|_| place_in_crate(path).is_some() && !is_test) else {
            continue;
        };
        for call in CALLS.iter().filter(|call| opens(code, call)) {
            match places.iter().find(|(place, _)| path.starts_with(place)) {
                Some((place, _)) => unseen.retain(|other| other != place),
                None => faults.push(format!(
                    "{path}: `{call}`; use ctseg_base::regular_file or ctseg_base::text::file"
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

/// Whether the code opens files with this call, other than system files.
fn opens(code: &str, call: &str) -> bool {
    code.match_indices(call).any(|(at, _)| {
        // `TorchFile::open` is another function.
        let is_whole = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &code[at + call.len()..];
        let name = rest.trim_start_matches("format!(").strip_prefix('"');
        let is_system_file =
            name.is_some_and(|name| SYSTEM_FILES.iter().any(|place| name.starts_with(place)));
        is_whole && !is_system_file
    })
}

#[test]
fn files_are_opened_in_one_place() {
    let faults = faults(&SOURCES, &ALLOWED);
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
