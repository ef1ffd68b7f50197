//! Names and texts use the words of PyTorch, nnU-Net, MONAI, Slurm and MLflow. Our own older words stay out of file names,
//! code, guides, recipes, job scripts and messages.

use std::path::Path;

use crate::sources::{SOURCES, root};

/// Old words, alone or as a part of a name, and what is said instead.
const WORDS: [(&str, &str); 12] = [
    ("told", "logged, reported, broadcast"),
    ("hears", "receives"),
    ("heard", "received"),
    ("standings", "live table"),
    ("shaken", "jittered"),
    ("frugal", "batching"),
    ("frugality", "batching"),
    ("parted", "multi_part"),
    ("segmenter", "stage, predictor"),
    ("leftovers", "temp_files"),
    ("anew", "again, re-initialised"),
    ("begun", "started"),
];

/// Old phrases, and what is said instead.
const PHRASES: [(&str, &str); 6] = [
    ("goes on", "resumes, continues"),
    ("so many", "N"),
    ("be it", "or"),
    ("is else", "is otherwise"),
    ("looked at", "evaluated, read"),
    ("fits too much", "overfitting"),
];

/// Names in files that older versions wrote, which are still read and written, and what tests say of them.
const WRITTEN: [&str; 2] = ["\"begun\"", "\"fits_too_much\""];

/// This list itself.
const LIST: &str = "tests/architecture/words.rs";

/// The words of a text in lower case: names are taken apart at `_` and before capitals.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for letter in text.chars() {
        let begins = !letter.is_alphabetic() || (letter.is_uppercase() && was_lower);
        if begins && !words[words.len() - 1].is_empty() {
            words.push(String::new());
        }
        if letter.is_alphabetic() {
            let last = words.len() - 1;
            words[last].extend(letter.to_lowercase());
        }
        was_lower = letter.is_lowercase();
    }
    words
}

/// The old words in a file's name and text.
fn faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let numbered = text.lines().enumerate();
    let lines = numbered.map(|(index, line)| (index + 1, line));
    for (number, line) in [(0, path)].into_iter().chain(lines) {
        let line = WRITTEN.iter().fold(line.to_owned(), |line, written| {
            line.replace(written, "\"\"")
        });
        let found = words(&line);
        let spaced = format!(" {} ", found.join(" "));
        let old = WORDS.iter().chain(&PHRASES);
        let old = old.filter(|(old, _)| spaced.contains(&format!(" {old} ")));
        faults.extend(old.map(|(old, new)| format!("{path}:{number}: '{old}'; say {new}")));
    }
    faults
}

/// The guides, recipes, job scripts and snapshots of messages.
fn pages() -> Vec<(String, String)> {
    let read = |path: &Path| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        (name.to_owned(), std::fs::read_to_string(path).unwrap())
    };
    let mut pages = vec![
        read(&root().join("README.md")),
        read(&root().join("CONTRIBUTING.md")),
        read(&root().join("benches/README.md")),
    ];
    for folder in [
        "docs",
        "stages",
        "scripts/slurm",
        "scripts/k8s/base",
        "scripts/container",
        "tests/architecture/snapshots",
        "tests/end_to_end/snapshots",
    ] {
        for entry in root().join(folder).read_dir().unwrap() {
            let path = entry.unwrap().path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            let endings = ["md", "toml", "sh", "sbatch", "yaml", "snap"];
            if ending.is_some_and(|ending| endings.contains(&ending)) {
                pages.push(read(&path));
            }
        }
    }
    pages
}

#[test]
fn old_words_stay_out() {
    let sources = SOURCES.iter().filter(|(path, _)| *path != LIST);
    let sources = sources.map(|(path, text)| (path.clone(), text.clone()));
    let texts = sources.chain(pages());
    let faults: Vec<String> = texts
        .flat_map(|(path, text)| faults(&path, &text))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn old_words_are_found_in_names_and_texts() {
    let text = "struct PartedModel;\nfn log_told() {}\n// Training\n// it goes on; a department\n#[serde(rename = \"begun\")]";
    let found = faults("src/heard.rs", text);
    assert_eq!(
        found,
        [
            "src/heard.rs:0: 'heard'; say received",
            "src/heard.rs:1: 'parted'; say multi_part",
            "src/heard.rs:2: 'told'; say logged, reported, broadcast",
            "src/heard.rs:4: 'goes on'; say resumes, continues",
        ]
    );
}
