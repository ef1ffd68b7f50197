//! Threads are started by calls that return an error, not by those that panic, if the system refuses.

use crate::sources::{SOURCES, Sources, place_in_crate};

/// Calls that start threads, and the only files that may use each.
const CALLS: [(&str, &[&str]); 5] = [
    ("thread::spawn(", &[]),
    ("scope.spawn(", &[]),
    ("thread::Builder", &[]),
    ("enable_steady_tick(", &[]),
    // These files propagate the error.
    (
        "ThreadPoolBuilder::new()",
        &["src/cli/pool.rs", "crates/train/src/trainer/loader.rs"],
    ),
];

/// Test code outside `tests.rs`: threads in place of processes.
const TEST_CODE: [&str; 1] = ["crates/engine/src/distributed/threads.rs"];

/// Files that start threads with a call that panics on refusal.
fn faults(sources: &Sources) -> Vec<String> {
    let own = sources.iter().filter(|(path, _)| {
        let is_code = place_in_crate(path).is_some() && !path.ends_with("tests.rs");
        is_code && !TEST_CODE.contains(&path.as_str())
    });
    let own = own.map(|(path, text)| (path, text.split("#[cfg(test)]\nmod tests").next()));
    let mut faults = Vec::new();
    for (path, code) in own {
        for (call, places) in CALLS {
            if code.is_some_and(|code| code.contains(call)) && !places.contains(&path.as_str()) {
                faults.push(format!("{path}: `{call}`; use ctseg_base::limits::spawn"));
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
fn calls_that_panic_are_found() {
    let text = "fn f() { std::thread::spawn(|| {}); }\n#[cfg(test)]\nmod tests { scope.spawn(g); }";
    let sources = [("src/a.rs", text), ("tests/b.rs", text)];
    let sources = sources.map(|(path, text)| (path.to_owned(), text.to_owned()));
    let found = faults(&Sources::from(sources));
    assert_eq!(
        found,
        ["src/a.rs: `thread::spawn(`; use ctseg_base::limits::spawn"]
    );
}
