//! `ctseg status` of batches: by one process, in shards, or shared with claims.

use super::*;

#[test]
fn the_latest_runs_of_a_batch_decide_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let write = |name: &str, minute: u64, shard: Option<&str>, cases: &[(&str, &str)]| {
        let cases = cases.iter().map(
            |(case, state)| json!({"input": case, "output": format!("out/{case}"), "state": state}),
        );
        let part = json!({
            "shard": shard, "ended": true, "interrupted": false, "seconds": 1.0,
            "cases": cases.collect::<Vec<_>>(),
        });
        std::fs::write(out.join(name), part.to_string()).unwrap();
        let file = std::fs::File::options().write(true).open(out.join(name));
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + 60 * minute);
        file.unwrap().set_modified(time).unwrap();
    };
    let first = [("a", "pending"), ("b", "pending")];
    write("predictions-1-of-4.json", 0, Some("1/4"), &first);
    write("predictions-2-of-4.json", 1, Some("2/4"), &[("c", "kept")]);
    write("predictions-4-of-4.json", 2, Some("4/4"), &[]);
    let missing = only_status(folder.path(), "out");
    assert_eq!(missing["state"], "interrupted");
    assert_eq!(missing["cases"]["shards_missing"], json!(["3/4"]));
    // Later, two shards cover the whole batch.
    write(
        "predictions-1-of-2.json",
        3,
        Some("1/2"),
        &[("a", "kept"), ("c", "kept")],
    );
    let half = only_status(folder.path(), "out");
    assert_eq!(half["state"], "interrupted");
    assert_eq!(half["cases"]["shards_missing"], json!(["2/2"]));
    write("predictions-2-of-2.json", 4, Some("2/2"), &[("b", "kept")]);
    let done = only_status(folder.path(), "out");
    assert_eq!(done["state"], "done", "{done:#}");
    assert_eq!(done["cases"]["kept"], 3);
    // One case again, without shards.
    write("predictions.json", 5, None, &[("b", "kept")]);
    let again = only_status(folder.path(), "out");
    assert_eq!(again["state"], "done", "{again:#}");
}

#[test]
fn a_batch_shows_done_failed_and_remaining_cases_and_its_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    batch(folder, 40);
    let predict = ["predict", "images", "-o", "out", "--device", "flex"];
    let mut child = spawned(folder, &predict);
    wait_for(&mut child, || files(&folder.join("out"), ".json").len() > 3);
    stop(&child);
    let running = only_status(folder, "out");
    assert_eq!(
        (&running["kind"], &running["state"]),
        (&"predict".into(), &"running".into())
    );
    assert_eq!(running["worker"]["pid"], child.id());
    signal(&child, "-KILL");
    child.wait().unwrap();
    let killed = only_status(folder, "out");
    assert_eq!(killed["state"], "interrupted", "{killed:#}");
    assert!(killed["because"].as_str().unwrap().contains("exited"));
    assert_eq!(killed["resume"], "the same command");

    std::fs::write(folder.join("images/bad.nii.gz"), "no volume").unwrap();
    run(folder, &predict, 3);
    let before = listing(folder);
    let failed = only_status(folder, "out");
    assert_eq!(listing(folder), before, "status has written something");
    let cases = &failed["cases"];
    assert_eq!(
        (&failed["state"], &cases["failed"]),
        (&"failed".into(), &1.into()),
        "{failed:#}"
    );
    let done = cases["done"].as_u64().unwrap() + cases["kept"].as_u64().unwrap();
    assert_eq!((done, &cases["left"]), (40, &0.into()));
    assert!(text(folder, "out").contains("1 failed"));
    std::fs::remove_file(folder.join("images/bad.nii.gz")).unwrap();
    run(folder, &predict, 0);
    assert_eq!(only_status(folder, "out")["state"], "done");

    // Each map is compared with itself.
    run(folder, &["evaluate", "out", "out"], 0);
    let both = status(folder, ".");
    assert_eq!(both["done"], 2, "{both:#}");
    let evaluation = &both["runs"][1];
    assert_eq!(
        (&evaluation["kind"], &evaluation["cases"]["done"]),
        (&"evaluate".into(), &40.into())
    );
    assert_eq!(evaluation["dice"], 1.0);
    assert_eq!(files(&folder.join("out"), ".state.json").len(), 0);
}

#[test]
fn shards_are_shown_as_one_batch() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    batch(folder, 8);
    let predict = |shard: &str| {
        let arguments = [
            "predict", "images", "-o", "out", "--device", "flex", "--shard", shard,
        ];
        run(folder, &arguments, 0);
    };
    predict("1/3");
    predict("3/3");
    let two = only_status(folder, "out");
    assert_eq!(two["state"], "interrupted");
    assert_eq!(two["cases"]["shards_missing"], json!(["2/3"]));
    assert!(text(folder, "out").contains("shards not started: 2/3"));
    predict("2/3");
    let three = only_status(folder, "out");
    assert_eq!(
        (&three["state"], &three["cases"]["done"]),
        (&"done".into(), &8.into()),
        "{three:#}"
    );
}

#[test]
fn processes_sharing_cases_are_shown_while_alive() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    batch(folder, 40);
    let mut predict = vec!["predict", "images", "-o", "out", "--device", "flex"];
    predict.extend(["--claim", "claims"]);
    let mut child = spawned(folder, &predict);
    let claims = || files(&folder.join("claims"), ".claim-1").len();
    wait_for(&mut child, || claims() > 3);
    stop(&child);
    let settled = files(&folder.join("claims"), ".json").len();
    let running = only_status(folder, "out");
    let cases = &running["cases"];
    assert_eq!(running["state"], "running", "{running:#}");
    assert_eq!(cases["done"], settled, "{running:#}");
    assert_eq!(cases["claimed"], claims() - settled, "{running:#}");
    let left = cases["left"].as_u64().unwrap() as usize;
    assert_eq!(left + claims(), 40);
    if let Some(claim) = cases["claims"].as_array().unwrap().first() {
        assert_eq!(claim["worker"]["pid"], child.id());
        let printed = text(folder, "out");
        assert!(
            printed.contains(&format!("process {}", child.id())),
            "{printed}"
        );
    }
    signal(&child, "-KILL");
    child.wait().unwrap();
    let killed = only_status(folder, "out");
    assert_eq!(killed["state"], "interrupted", "{killed:#}");
    assert_eq!(
        (&killed["cases"]["claimed"], &killed["cases"]["done"]),
        (&0.into(), &settled.into())
    );
    run(folder, &predict, 0);
    let done = only_status(folder, "out");
    assert_eq!(done["state"], "done", "{done:#}");
    // A label map completed before the kill but not yet recorded is kept.
    let count = |name: &str| done["cases"][name].as_u64().unwrap();
    assert_eq!(count("done") + count("kept"), 40, "{done:#}");
}
