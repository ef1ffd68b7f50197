//! Spools in temporary folders.

use super::*;
use crate::mlflow::event_reader::beginning;

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
fn told(run: &Path) -> Vec<Metrics> {
    let mut lines = Lines::open(run, 0).unwrap();
    let mut found = Vec::new();
    while let Some(placed) = lines.next().unwrap() {
        if let Some(Line {
            event:
                Event::Metrics {
                    network,
                    step,
                    values,
                    ..
                },
            ..
        }) = placed.line
        {
            let values = values.into_iter().map(|(name, value)| (name, value.0));
            found.push((network, step, values.collect()));
        }
    }
    found
}

#[test]
fn a_step_is_told_once_also_after_a_kill() {
    let run = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(run.path()).unwrap();
    let key = spool.key();
    spool
        .begun(Begun {
            key: key.clone(),
            name: "n".to_owned(),
            run: "r".to_owned(),
            parent: None,
            above: None,
            networks: 1,
            experiment: None,
            user: None,
            process: ProcessId::own().to_string(),
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
    // What is torn is not there for readers, now or later.
    assert_eq!(told(run.path()).len(), 3);
    let mut spool = Spool::open(run.path()).unwrap();
    assert_eq!(spool.key(), key);
    for step in 1..4 {
        let points = point(step, &["loss", "system/cpu"], 10.0);
        spool.metrics(Some("fold 0"), &points, false).unwrap();
    }
    spool
        .metrics(Some("fold 1"), &point(0, &["loss"], 5.0), false)
        .unwrap();
    let loss: Vec<(u64, f64)> = told(run.path())
        .iter()
        .filter(|(network, ..)| network.as_deref() == Some("fold 0"))
        .flat_map(|(_, step, values)| {
            let loss = values.iter().filter(|(name, _)| name == "loss");
            loss.map(|(_, value)| (*step, *value)).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(loss, [(0, 0.0), (1, 1.0), (2, 2.0), (3, 10.0)]);
    // The machine's are of each process; their steps go on.
    let machine: Vec<u64> = told(run.path())
        .iter()
        .filter(|(_, _, values)| values.iter().any(|(name, _)| name == "system/cpu"))
        .map(|(_, step, _)| *step)
        .collect();
    assert_eq!(machine, [0, 1, 2, 4, 5, 6]);
    assert_eq!(beginning(run.path()).unwrap().unwrap().1.key, key);
}

#[test]
fn an_epoch_that_was_broken_off_is_told_again() {
    let run = tempfile::tempdir().unwrap();
    for (value, again) in [(1.0, true), (2.0, false), (3.0, false)] {
        let mut spool = Spool::open(run.path()).unwrap();
        spool
            .metrics(None, &point(4, &["loss"], value), again)
            .unwrap();
    }
    let found: Vec<f64> = told(run.path()).iter().map(|(.., v)| v[0].1).collect();
    assert_eq!(found, [1.0, 2.0]);
}

#[test]
fn parameters_stay_and_their_changes_are_tags() {
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
    assert_eq!(told(run.path()).len(), 5000);
}
