//! Killed fits and server outages: everything arrives once.

use super::*;
use crate::common::runs::find_only;

fn fit_arguments(data: &Path, stage: &str) -> Vec<String> {
    let data = data.to_str().unwrap();
    let arguments = [
        "--device",
        "flex",
        "--threads",
        "1",
        "fit",
        "--stage",
        stage,
        "--data",
        data,
        "--no-out-of-fold",
        "--fold",
        "all",
    ];
    let arguments = arguments
        .iter()
        .chain(&SMALL)
        .map(|text| (*text).to_owned());
    arguments.collect()
}

/// Fails unless every number of `metrics.jsonl` is one point of its network's run.
fn assert_epochs(content: &Value, experiment: &str, run: &Path, epochs: u64) {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let runs = content["experiments"][experiment]["runs"]
        .as_array()
        .unwrap();
    let mut lines = 0;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let of_network = |run: &&Value| run["tags"]["ctseg.network"] == line["network"];
        let found = runs.iter().find(of_network).unwrap();
        for name in [
            "loss",
            "learning_rate",
            "seconds",
            "validation_dice",
            "validation_iou",
        ] {
            let points = found["metrics"][name].as_array().unwrap();
            assert_eq!(points.len() as u64, epochs, "{name}");
            let at_step: Vec<&Value> = points.iter().filter(|p| p[0] == line["epoch"]).collect();
            assert_eq!(at_step.len(), 1, "{name} at {}", line["epoch"]);
            let value: f64 = at_step[0][1].as_str().unwrap().parse().unwrap();
            assert_eq!(value, line[name].as_f64().unwrap(), "{name}");
        }
        lines += 1;
    }
    assert_eq!(lines, 2 * epochs);
}

/// Starts a fit of 16 epochs in `folder` that logs to `experiment`.
fn start_fit(
    test: &TestServer,
    folder: &Path,
    data: &Path,
    stage: &str,
    experiment: &str,
) -> Child {
    let mut arguments = fit_arguments(data, stage);
    arguments
        .extend(["--epochs", "16", "--runs", experiment, "--model", "model"].map(str::to_owned));
    arguments.extend(["--experiment", experiment].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = ctseg(folder, &arguments);
    command.env("MLFLOW_TRACKING_URI", test.uri());
    let piped = command.stdout(Stdio::null()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

/// Waits for a fit during a server outage; returns its stderr.
fn end_without_server(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert_eq!(
        log.matches("keeps its events in the run folder").count(),
        1,
        "{log}"
    );
    log
}

/// Fails unless there is a finished run for all networks and one for each network.
fn assert_finished(content: &Value, experiment: &str) {
    let runs = content["experiments"][experiment]["runs"]
        .as_array()
        .unwrap();
    assert_eq!(runs.len(), 3);
    let parents: Vec<&Value> = runs.iter().filter(|run| run["parent"].is_null()).collect();
    assert_eq!(parents.len(), 1);
    let name = parents[0]["name"].as_str().unwrap();
    assert!(name.starts_with("unet2d_"), "{name}");
    let artifacts = parents[0]["artifacts"].as_object().unwrap();
    for file in ["recipe.toml", "plots/loss.png", "metrics.jsonl", "log.txt"] {
        assert!(artifacts.contains_key(file), "{file}: {artifacts:?}");
    }
    assert!(!artifacts.keys().any(|name| name.starts_with("plots/plots")));
    let params = parents[0]["params"].as_object().unwrap();
    for run in runs {
        assert_eq!(run["status"], "FINISHED", "{run:#}");
        if run["id"] == parents[0]["id"] {
            continue;
        }
        assert_eq!(run["parent"], parents[0]["id"]);
        let mut own = run["params"].as_object().unwrap().clone();
        let fold = own.remove("fold").unwrap();
        assert_eq!(
            run["tags"]["ctseg.network"],
            format!("fold {}", fold.as_str().unwrap())
        );
        assert_eq!(&own, params);
    }
}

/// The server stops while two folds of stage 1 are trained, and returns during stage 2: nothing is lost or duplicated.
pub(super) fn two_stages_survive_a_server_outage(test: &mut TestServer) {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let folder = tempfile::tempdir().unwrap();
    let first = start_fit(test, folder.path(), &descriptor, "demo-coarse", "stage_1");
    let delivered = |experiment: &str| {
        let run = std::fs::read_dir(folder.path().join(experiment))
            .ok()?
            .next()?;
        let path = run.ok()?.path().join("tracking/delivered.json");
        std::fs::read_to_string(path).ok()
    };
    wait_for("nothing was delivered", || {
        delivered("stage_1").is_some_and(|text| text.contains("\"fold 0\""))
    });
    test.stop();
    let log = end_without_server(first);
    assert!(log.contains("'ctseg sync"), "{log}");
    let run_1 = find_only(&folder.path().join("stage_1")).unwrap();

    // Still unavailable: sync fails and changes nothing.
    let before = delivered("stage_1");
    let no_server = ctseg(folder.path(), &["sync", "stage_1"])
        .env("MLFLOW_TRACKING_URI", test.uri())
        .output()
        .unwrap();
    assert_eq!(no_server.status.code(), Some(1));
    assert_eq!(delivered("stage_1"), before);

    let second = start_fit(test, folder.path(), &descriptor, "demo-refine", "stage_2");
    let epochs = || {
        let run = std::fs::read_dir(folder.path().join("stage_2"))
            .ok()?
            .next()?;
        let text = std::fs::read_to_string(run.ok()?.path().join("metrics.jsonl")).ok()?;
        Some(text.lines().count())
    };
    wait_for("fewer than 4 epochs", || {
        epochs().is_some_and(|count| count > 3)
    });
    test.restart();
    end_without_server(second);
    let run_2 = find_only(&folder.path().join("stage_2")).unwrap();

    sync_twice_at_once(test, folder.path());
    let content = test.content();
    for (experiment, run) in [("stage_1", &run_1), ("stage_2", &run_2)] {
        assert_epochs(&content, experiment, run, 16);
        assert_finished(&content, experiment);
        let text = sync(test, folder.path(), &[run.to_str().unwrap()], 0);
        assert!(text.contains(" 0 ") && text.contains("complete"), "{text}");
    }
}

fn sync_twice_at_once(test: &TestServer, folder: &Path) {
    let both: Vec<_> = (0..2)
        .map(|_| {
            let mut command = ctseg(folder, &["--json", "sync", "stage_1", "stage_2"]);
            command.env("MLFLOW_TRACKING_URI", test.uri());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

/// Killed and resumed: one run on the server, every epoch once.
pub(super) fn a_killed_fit_resumes_in_the_same_run(test: &TestServer) {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = fit_arguments(&descriptor, "demo-coarse");
    arguments.extend(["--epochs", "12", "--experiment", "killed"].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut child = ctseg(folder.path(), &arguments);
    child.env("MLFLOW_TRACKING_URI", test.uri());
    let mut child = child
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let epochs = || {
        let run = std::fs::read_dir(folder.path().join("runs")).ok()?.next()?;
        let text = std::fs::read_to_string(run.ok()?.path().join("metrics.jsonl")).ok()?;
        Some(text.lines().count())
    };
    wait_for("fewer than 4 epochs", || {
        epochs().is_some_and(|count| count > 3)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let text = sync(test, folder.path(), &[], 0);
    assert!(text.contains("complete"), "{text}");
    let run = find_only(&folder.path().join("runs")).unwrap();
    let status = |content: &Value| {
        let runs = content["experiments"]["killed"]["runs"].as_array().unwrap();
        let parent = runs.iter().find(|run| run["parent"].is_null()).unwrap();
        parent["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status(&test.content()), "KILLED");
    let resume = ["--device", "flex", "--threads", "1", "fit", "--resume"];
    let resume = [&resume[..], &[run.to_str().unwrap()]].concat();
    let output = ctseg(folder.path(), &resume)
        .env("MLFLOW_TRACKING_URI", test.uri())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let content = test.content();
    assert_eq!(status(&content), "FINISHED");
    let runs = content["experiments"]["killed"]["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 3);
    for run in runs.iter().filter(|run| !run["parent"].is_null()) {
        let steps: Vec<u64> = history(run, "loss").iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    }
}
