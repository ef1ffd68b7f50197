//! Threads are started where the system's refusal is an error, and not a panic in the middle of work.

use crate::sources::{SOURCES, Sources, place_in_crate};

/// Ways to start threads, and the only files that may use each.
const WAYS: [(&str, &[&str]); 5] = [
    ("thread::spawn(", &[]),
    ("scope.spawn(", &[]),
    ("thread::Builder", &[]),
    ("enable_steady_tick(", &[]),
    // Their error is handed on.
    (
        "ThreadPoolBuilder::new()",
        &["src/cli/pool.rs", "crates/train/src/trainer/loader.rs"],
    ),
];

/// Test code beside the code: threads in the place of processes.
const OF_TESTS: [&str; 1] = ["crates/engine/src/distributed/threads.rs"];

/// Where threads are started so that a refusal panics.
fn faults(sources: &Sources) -> Vec<String> {
    let own = sources.iter().filter(|(path, _)| {
        let is_code = place_in_crate(path).is_some() && !path.ends_with("tests.rs");
        is_code && !OF_TESTS.contains(&path.as_str())
    });
    let own = own.map(|(path, text)| (path, text.split("#[cfg(test)]\nmod tests").next()));
    let mut faults = Vec::new();
    for (path, code) in own {
        for (way, places) in WAYS {
            if code.is_some_and(|code| code.contains(way)) && !places.contains(&path.as_str()) {
                faults.push(format!("{path}: `{way}`; use ctseg_base::limits::spawn"));
            }
        }
    }
    faults
}

#[test]
fn threads_are_started_with_an_error_path() {
    let faults = faults(&SOURCES);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn other_ways_are_found() {
    let text = "fn f() { std::thread::spawn(|| {}); }\n#[cfg(test)]\nmod tests { scope.spawn(g); }";
    let sources = [("src/a.rs", text), ("tests/b.rs", text)];
    let sources = sources.map(|(path, text)| (path.to_owned(), text.to_owned()));
    let found = faults(&Sources::from(sources));
    assert_eq!(
        found,
        ["src/a.rs: `thread::spawn(`; use ctseg_base::limits::spawn"]
    );
}
