//! Folders, files and functions stay short.

use std::collections::BTreeMap;

use crate::parsed::File;
use crate::sources::{FILES, SOURCES, Sources, place_in_crate, planted};

const MAX_FILES_IN_FOLDER: usize = 25;
const MAX_LINES_OF_FILE: usize = 400;
const MAX_LINES_OF_FUNCTION: usize = 60;

/// A longer file gives the reason in its head comment, in a sentence that begins with this.
const REASON: &str = "Over 400 lines:";

/// Folders of crates with too many source files directly in them, and the number of folders seen.
fn crowded_folders<'a>(paths: impl Iterator<Item = &'a str>) -> (Vec<String>, usize) {
    let mut folders: BTreeMap<&str, usize> = BTreeMap::new();
    for path in paths.filter(|path| place_in_crate(path).is_some()) {
        let (folder, _) = path.rsplit_once('/').unwrap();
        *folders.entry(folder).or_default() += 1;
    }
    let crowded = folders
        .iter()
        .filter(|(_, files)| **files > MAX_FILES_IN_FOLDER)
        .map(|(folder, files)| format!("{folder} has {files} source files"));
    (crowded.collect(), folders.len())
}

/// Files with too many lines and no reason.
fn long_files(sources: &Sources) -> Vec<String> {
    sources
        .iter()
        .map(|(path, text)| (path, text, text.lines().count()))
        .filter(|(_, text, lines)| *lines > MAX_LINES_OF_FILE && !gives_reason(text))
        .map(|(path, _, lines)| format!("{path} has {lines} lines"))
        .collect()
}

fn gives_reason(text: &str) -> bool {
    let head = text.lines().map_while(|line| line.strip_prefix("//!"));
    let head = head.map(str::trim).collect::<Vec<_>>().join(" ");
    head.split_once(REASON).is_some_and(|(before, reason)| {
        let begins_sentence = before.trim_end().is_empty() || before.trim_end().ends_with('.');
        begins_sentence && reason.split_whitespace().count() > 2
    })
}

/// Functions with too many lines, from `fn` to the closing brace, and the number of functions seen.
fn long_functions<'a>(files: impl Iterator<Item = &'a File>) -> (Vec<String>, usize) {
    let mut long = Vec::new();
    let mut seen = 0;
    for file in files {
        seen += file.functions.len();
        for function in file
            .functions
            .iter()
            .filter(|function| function.lines > MAX_LINES_OF_FUNCTION)
        {
            let (path, line) = (&file.path, function.first_line);
            long.push(format!(
                "{path}:{line}: {} has {} lines",
                function.name, function.lines
            ));
        }
    }
    (long, seen)
}

#[test]
fn folders_hold_few_files() {
    let (crowded, seen) = crowded_folders(SOURCES.keys().map(String::as_str));
    assert!(seen > 10, "only {seen} folders seen");
    assert!(crowded.is_empty(), "\n{}", crowded.join("\n"));
}

#[test]
fn files_are_short_or_give_a_reason() {
    let long = long_files(&SOURCES);
    assert!(SOURCES.len() > 400, "only {} files seen", SOURCES.len());
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

#[test]
fn functions_are_short() {
    let (long, seen) = long_functions(FILES.iter());
    assert!(seen > 2000, "only {seen} functions seen");
    assert!(
        long.is_empty(),
        "{} functions\n{}",
        long.len(),
        long.join("\n")
    );
}

#[test]
fn crowded_folders_are_found() {
    let planted =
        |folder: &str, files: usize| (0..files).map(|n| format!("{folder}/f{n}.rs")).collect();
    let paths: [Vec<String>; 4] = [
        planted("src/a", 26),
        planted("crates/image/src", 25),
        planted("crates/image/src/b", 27),
        planted("tests", 80),
    ];
    let (crowded, seen) = crowded_folders(paths.iter().flatten().map(String::as_str));
    assert_eq!(
        crowded,
        [
            "crates/image/src/b has 27 source files",
            "src/a has 26 source files"
        ]
    );
    assert_eq!(seen, 3);
}

#[test]
fn long_files_without_a_reason_are_found() {
    let file =
        |head: &str, lines: usize| head.to_owned() + &"\n".repeat(lines - head.lines().count());
    let faults = |text: String| long_files(&Sources::from([("src/a.rs".to_owned(), text)])).len();
    assert_eq!(faults(file("//! A table.\n", 400)), 0);
    assert_eq!(faults(file("//! A table.\n", 401)), 1);
    let reason = "Over 400 lines: the table\n//! of all countries.\n";
    assert_eq!(faults(file(&format!("//! {reason}"), 401)), 0);
    assert_eq!(
        faults(file(&format!("//! A table.\n//!\n//! {reason}"), 401)),
        0
    );
    assert_eq!(faults(file(&format!("//! A table. {reason}"), 401)), 0);
    for no_reason in [
        "//! Over 400 lines:\n",
        "//! A table\n\n//! Over 400 lines: the table of all.\n",
        "// Over 400 lines: a big table.\n",
        "//! Not Over 400 lines: a big table.\n",
    ] {
        assert_eq!(faults(file(no_reason, 401)), 1, "{no_reason}");
    }
}

#[test]
fn long_functions_are_found() {
    // Lines of attributes do not count; those of arguments do.
    let function = |lines: usize| {
        format!(
            "#[inline]\n#[must_use]\npub fn f(\n) {{{}}}\n",
            "\n".repeat(lines - 2)
        )
    };
    let long = |text: &str| long_functions(planted(&[("src/a.rs", text)]).iter());
    assert_eq!(long(&function(60)), (vec![], 1));
    let expected = "src/a.rs:3: f has 61 lines".to_owned();
    assert_eq!(long(&function(61)), (vec![expected], 1));
    for group in ["impl A", "trait A", "mod a", "fn outer()"] {
        let text = format!("{group} {{\n{}}}", function(61)).replace("pub ", "");
        assert!(
            long(&text)
                .0
                .contains(&"src/a.rs:4: f has 61 lines".to_owned()),
            "{group}"
        );
    }
}
