//! Event files in temporary folders.

use super::*;
use crate::mlflow::event_reader::{complete_bytes, run_start};

fn point(step: u64, names: &[&str], value: f64) -> [Point; 1] {
    let values = names.iter().map(|name| ((*name).to_owned(), value));
    [Point {
        step,
        time_ms: 1_700_000_000_000 + step as i64,
        values: values.collect(),
    }]
}

type Metrics = (Option<String>, u64, Vec<(String, f64)>);

/// Network, step and values of every metrics line.
fn recorded(run: &Path) -> Vec<Metrics> {
    let mut lines = Lines::open(run, 0).unwrap();
    let mut found = Vec::new();
    while let Some(positioned) = lines.next().unwrap() {
        if let Some(Line {
            event:
                Event::Metrics {
                    network,
                    step,
                    values,
                    ..
                },
            ..
        }) = positioned.line
        {
            let values = values.into_iter().map(|(name, value)| (name, value.0));
            found.push((network, step, values.collect()));
        }
    }
    found
}

#[test]
fn a_step_is_recorded_once_also_after_a_kill() {
    let run = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(run.path()).unwrap();
    let key = spool.key();
    spool
        .start_run(RunStart {
            key: key.clone(),
            name: "n".to_owned(),
            run: "r".to_owned(),
            parent: None,
            parent_run: None,
            networks: 1,
            experiment: None,
            user: None,
            process: ProcessId::current().to_string(),
        })
        .unwrap();
    for step in 0..3 {
        let points = point(step, &["loss", "system/cpu"], step as f64);
        spool.metrics(Some("fold 0"), &points, false).unwrap();
    }
    drop(spool);
    let path = path_in(run.path());
    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"{\"at\":17,\"event\":\"metr").unwrap();
    // Readers skip the torn line, now and later.
    assert_eq!(recorded(run.path()).len(), 3);
    let mut spool = Spool::open(run.path()).unwrap();
    assert_eq!(spool.key(), key);
    for step in 1..4 {
        let points = point(step, &["loss", "system/cpu"], 10.0);
        spool.metrics(Some("fold 0"), &points, false).unwrap();
    }
    spool
        .metrics(Some("fold 1"), &point(0, &["loss"], 5.0), false)
        .unwrap();
    let loss: Vec<(u64, f64)> = recorded(run.path())
        .iter()
        .filter(|(network, ..)| network.as_deref() == Some("fold 0"))
        .flat_map(|(_, step, values)| {
            let loss = values.iter().filter(|(name, _)| name == "loss");
            loss.map(|(_, value)| (*step, *value)).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(loss, [(0, 0.0), (1, 1.0), (2, 2.0), (3, 10.0)]);
    // Steps of system metrics continue across processes.
    let machine: Vec<u64> = recorded(run.path())
        .iter()
        .filter(|(_, _, values)| values.iter().any(|(name, _)| name == "system/cpu"))
        .map(|(_, step, _)| *step)
        .collect();
    assert_eq!(machine, [0, 1, 2, 4, 5, 6]);
    assert_eq!(run_start(run.path()).unwrap().unwrap().1.key, key);
}

#[test]
fn an_interrupted_epoch_is_recorded_again() {
    let run = tempfile::tempdir().unwrap();
    for (value, is_partial) in [(1.0, true), (2.0, false), (3.0, false)] {
        let mut spool = Spool::open(run.path()).unwrap();
        spool
            .metrics(None, &point(4, &["loss"], value), is_partial)
            .unwrap();
    }
    let found: Vec<f64> = recorded(run.path()).iter().map(|(.., v)| v[0].1).collect();
    assert_eq!(found, [1.0, 2.0]);
}

#[test]
fn changed_parameters_become_tags() {
    let run = tempfile::tempdir().unwrap();
    let of = |value: &str| vec![("epochs".to_owned(), value.to_owned())];
    Spool::open(run.path())
        .unwrap()
        .parameters(&of("3"))
        .unwrap();
    let mut spool = Spool::open(run.path()).unwrap();
    spool.parameters(&of("3")).unwrap();
    spool.parameters(&of("5")).unwrap();
    let text = std::fs::read_to_string(path_in(run.path())).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains(r#""changed.epochs":"5""#), "{text}");
}

#[test]
fn memory_does_not_grow_with_events() {
    let run = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(run.path()).unwrap();
    let held = |spool: &Spool| spool.names_held();
    spool
        .metrics(None, &point(0, &["a", "b"], 1.0), false)
        .unwrap();
    let before = held(&spool);
    for step in 1..5000 {
        spool
            .metrics(None, &point(step, &["a", "b"], 1.0), false)
            .unwrap();
    }
    assert_eq!(held(&spool), before);
    assert_eq!(recorded(run.path()).len(), 5000);
}

#[test]
fn an_unwritten_event_is_recorded_again_on_a_new_line() {
    let run = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(run.path()).unwrap();
    let epochs = |value: &str| [("epochs".to_owned(), value.to_owned())];
    spool
        .metrics(None, &point(0, &["loss"], 0.0), false)
        .unwrap();
    // The disk is full after a part of the next line.
    let path = path_in(run.path());
    let mut torn = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    torn.write_all(b"{\"at\":17,\"event\":\"metr").unwrap();
    let file = std::mem::replace(&mut spool.file, File::open(&path).unwrap());
    spool.is_torn = true;
    let loss = point(1, &["loss"], 1.0);
    assert!(spool.metrics(None, &loss, false).is_err());
    assert!(spool.parameters(&epochs("3")).is_err());
    assert_eq!(recorded(run.path()).len(), 1);
    let whole = complete_bytes(run.path()).unwrap();
    assert!(whole < path.metadata().unwrap().len());

    // There is room again.
    spool.file = file;
    spool.metrics(None, &loss, false).unwrap();
    spool.parameters(&epochs("3")).unwrap();
    spool.metrics(None, &loss, false).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines.len() == 4 && lines[1].ends_with("metr torn"),
        "{text}"
    );
    assert!(lines[3].contains("parameters"), "{text}");
    let steps: Vec<u64> = recorded(run.path())
        .iter()
        .map(|(_, step, _)| *step)
        .collect();
    assert_eq!(steps, [0, 1]);
    // Readers that had reached the torn line continue there.
    let mut later = Lines::open(run.path(), whole).unwrap();
    assert!(later.next().unwrap().unwrap().line.is_none());
    assert!(later.next().unwrap().unwrap().line.is_some());
    assert_eq!(complete_bytes(run.path()).unwrap(), text.len() as u64);
}

#[test]
fn a_line_without_its_line_break_is_recorded_once() {
    let run = tempfile::tempdir().unwrap();
    let loss = point(0, &["loss"], 1.0);
    let open = || Spool::open(run.path()).unwrap();
    open().metrics(None, &loss, false).unwrap();
    let path = path_in(run.path());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.trim_end()).unwrap();
    assert!(recorded(run.path()).is_empty());
    open().metrics(None, &loss, false).unwrap();
    assert_eq!(recorded(run.path()).len(), 1);
}

/// Accepts this many bytes, at most three at a time.
struct AlmostFull(usize);

impl Write for AlmostFull {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = bytes.len().min(self.0).min(3);
        self.0 -= count;
        match count {
            0 => Err(ErrorKind::StorageFull.into()),
            count => Ok(count),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_failed_write_returns_the_bytes_written() {
    let (count, ended) = write_counted(&mut AlmostFull(7), b"0123456789");
    assert_eq!(
        (count, ended.unwrap_err().kind()),
        (7, ErrorKind::StorageFull)
    );
    let (count, ended) = write_counted(&mut AlmostFull(10), b"0123456789");
    assert!(count == 10 && ended.is_ok());
}

#[test]
fn torn_ends_are_not_counted() {
    let run = tempfile::tempdir().unwrap();
    std::fs::create_dir(run.path().join(FOLDER)).unwrap();
    let path = path_in(run.path());
    let long = "x".repeat(100_000);
    for (text, whole) in [("", 0), ("ab", 0), ("ab\n", 3), ("a\nb\nc", 4)] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(complete_bytes(run.path()).unwrap(), whole);
        std::fs::write(&path, format!("{text}{long}")).unwrap();
        assert_eq!(complete_bytes(run.path()).unwrap(), whole);
    }
}
