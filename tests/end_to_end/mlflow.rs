//! Runs on a real MLflow server, read by its own Python client. Skipped without `CTSEG_TEST_MLFLOW`.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Barrier;

use crate::common::captured_log::CapturedLog;
use crate::common::mlflow::{PASSWORD, TestServer, server};
use crate::common::runs::wait_for;
use crate::common::{SMALL, ctseg, phantoms, publish_random, small_recipe, stderr};
use ctseg_base::hash::file_sha256;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::run::tracker::{
    DatasetInput, Event, Outcome, Point, RunIdentity, Tracker, TrainedModel,
};
use ctseg_tracking::mlflow::Mlflow;
use ctseg_tracking::mlflow::parent::Parent;
use serde_json::Value;

mod deleted;
mod fits;
mod logins;

fn pairs(values: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    values.iter().map(owned).collect()
}

fn point(step: u64, values: &[(&str, f64)]) -> Point {
    let values = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value));
    Point {
        step,
        time_ms: 1_760_000_000_000 + 1000 * step as i64,
        values: values.collect(),
    }
}

/// The run named `name`; fails unless there is exactly one.
fn run_named<'a>(content: &'a Value, experiment: &str, name: &str) -> &'a Value {
    let runs = content["experiments"][experiment]["runs"]
        .as_array()
        .unwrap();
    let named: Vec<&Value> = runs.iter().filter(|run| run["name"] == name).collect();
    assert_eq!(named.len(), 1, "{name} in {runs:#?}");
    named[0]
}

/// Steps and values of a metric, by step.
fn history(run: &Value, name: &str) -> Vec<(u64, String)> {
    let points = run["metrics"][name].as_array();
    let points = points.unwrap_or_else(|| panic!("no {name} in {run:#}"));
    let step_and_value = |point: &Value| {
        let value = point[1].as_str().unwrap().to_owned();
        (point[0].as_u64().unwrap(), value)
    };
    points.iter().map(step_and_value).collect()
}

/// A model with random weights, as a run reports it.
fn a_model(folder: &Path) -> TrainedModel {
    publish_random(folder, &small_recipe("1", &[]), &[&["a"], &["b"]]);
    TrainedModel {
        bundle: folder.to_path_buf(),
        sha256: Bundle::open(folder).unwrap().sha256(),
        name: "liver and spleen".to_owned(),
        structures: vec!["liver".to_owned(), "spleen".to_owned()],
        spacing_mm: vec![14.0, 14.0, 14.0],
    }
}

/// Logs events of every kind in the run folder `folder`.
fn log_everything(tracker: &dyn Tracker, folder: &Path, model: &TrainedModel) {
    let sweep = RunIdentity {
        name: "sweep",
        folder,
        parent: None,
    };
    tracker.run_started(&sweep).unwrap();
    let trial = folder.join("trials/000");
    std::fs::create_dir_all(&trial).unwrap();
    let identity = RunIdentity {
        name: "000",
        folder: &trial,
        parent: Some("sweep"),
    };
    tracker.run_started(&identity).unwrap();
    for event in &everything(&trial, model) {
        tracker.log_event(event).unwrap();
    }
    tracker.run_ended(&identity, &Outcome::Finished).unwrap();
    let failed = Outcome::Failed("disk full".to_owned());
    tracker.run_ended(&sweep, &failed).unwrap();
}

/// Events of every kind, and the files in `trial` that they name.
fn everything(trial: &Path, model: &TrainedModel) -> [Event; 10] {
    let many: Vec<(String, String)> = (0..250)
        .map(|index| (format!("p{index:03}"), "ä".repeat(30 * index)))
        .collect();
    let points: Vec<Point> = (1..=2500)
        .map(|step| point(step, &[("step/loss", 1.0 / step as f64)]))
        .collect();
    let edges = [
        ("edge/nan", f64::NAN),
        ("edge/inf", f64::INFINITY),
        ("edge/tiny", 5e-324),
        ("edge/größe (mm)", -0.1),
    ];
    std::fs::create_dir_all(trial.join("plots/deep")).unwrap();
    std::fs::write(trial.join("plots/loss.png"), [0, 255, 13, 10]).unwrap();
    std::fs::write(trial.join("plots/deep/a b+ü%.txt"), "").unwrap();
    std::fs::write(trial.join("log.txt"), vec![7; 3 << 20]).unwrap();
    let artifact = |path: &str, to: &str| Event::Artifact {
        path: trial.join(path),
        to: to.to_owned(),
    };
    [
        Event::Parameters(many),
        Event::Tags(pairs(&[
            ("host", "here"),
            ("mlflow.source.name", "ctseg fit"),
        ])),
        Event::Tags(pairs(&[("host", "there")])),
        Event::Dataset(DatasetInput {
            name: "phantoms".to_owned(),
            digest: "0123456789abcdef".repeat(4),
            source: "/data/phantoms.toml".to_owned(),
            context: "training".to_owned(),
            cases: 12,
        }),
        Event::Metrics {
            network: Some("fold 0".to_owned()),
            points,
        },
        Event::Metrics {
            network: None,
            points: vec![point(0, &edges)],
        },
        artifact("plots", ""),
        artifact("log.txt", "logs/of/it"),
        artifact("gone.txt", ""),
        Event::Model(model.clone()),
    ]
}

/// Events of every kind arrive, and arriving twice changes nothing.
fn everything_arrives(test: &TestServer) {
    let folder = tempfile::tempdir().unwrap();
    let model = a_model(&folder.path().join("model"));
    let runs = folder.path().join("runs/sweep");
    std::fs::create_dir_all(&runs).unwrap();
    let (log, observer) = CapturedLog::new();
    let mlflow = Mlflow::new(
        Some(server(&test.uri())),
        Some("everything".to_owned()),
        None,
        &observer,
    );
    log_everything(&mlflow.unwrap(), &runs, &model);
    let warnings = log.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("gone.txt"),
        "{warnings:?}"
    );
    assert!(log.infos()[0].contains("/#/experiments/"));
    let content = test.content();
    assert_everything(&content, &runs, &model);

    // Without the record of deliveries everything is sent again.
    for place in [&runs, &runs.join("trials/000")] {
        std::fs::remove_file(place.join("tracking/delivered.json")).unwrap();
    }
    let output = sync(test, folder.path(), &["runs"], 0);
    assert!(output.contains("complete"), "{output}");
    let again = test.content();
    assert_eq!(
        again["experiments"]["everything"],
        content["experiments"]["everything"]
    );
    assert_eq!(again["registered"], content["registered"]);
}

fn assert_everything(content: &Value, runs: &Path, model: &TrainedModel) {
    let sweep = run_named(content, "everything", "sweep");
    assert_eq!(
        (&sweep["status"], &sweep["parent"]),
        (&"FAILED".into(), &Value::Null)
    );
    assert_eq!(sweep["tags"]["ctseg.failure"], "disk full");
    let trial = run_named(content, "everything", "000");
    assert_eq!(trial["status"], "FINISHED");
    assert_eq!(trial["parent"], sweep["id"]);
    let params = trial["params"].as_object().unwrap();
    assert_eq!(params.len(), 250);
    assert_eq!(params["p100"].as_str().unwrap().chars().count(), 3000);
    let cut = params["p249"].as_str().unwrap();
    assert!(cut.chars().count() == 6000 && cut.ends_with("[cut, 7470 characters]"));
    assert_eq!(trial["tags"]["host"], "there");
    assert_eq!(trial["tags"]["mlflow.source.name"], "ctseg fit");
    let found = history(trial, "step/loss");
    assert_eq!(found.len(), 2500);
    for (step, (at, value)) in (1..).zip(&found) {
        assert_eq!((step, 1.0 / step as f64), (*at, value.parse().unwrap()));
    }
    assert_eq!(trial["metrics"]["step/loss"][1][2], 1_760_000_002_000_i64);
    assert_eq!(history(trial, "edge/nan"), [(0, "nan".to_owned())]);
    // MLflow's databases store infinity like this.
    assert_eq!(
        history(trial, "edge/inf"),
        [(0, "1.7976931348623157e+308".to_owned())]
    );
    assert_eq!(history(trial, "edge/tiny"), [(0, "5e-324".to_owned())]);
    assert_eq!(history(trial, "edge/größe _mm_"), [(0, "-0.1".to_owned())]);
    let dataset = &trial["datasets"][0];
    assert_eq!(dataset["name"], "phantoms");
    assert_eq!(dataset["digest"].as_str().unwrap().len(), 36);
    assert_eq!(dataset["tags"]["mlflow.data.context"], "training");
    let own = |name: &str| file_sha256(&runs.join("trials/000").join(name)).unwrap();
    let artifacts = trial["artifacts"].as_object().unwrap();
    assert_eq!(artifacts.len(), 3, "{artifacts:?}");
    assert_eq!(artifacts["plots/loss.png"], own("plots/loss.png"));
    assert_eq!(
        artifacts["plots/deep/a b+ü%.txt"],
        own("plots/deep/a b+ü%.txt")
    );
    assert_eq!(artifacts["logs/of/it/log.txt"], own("log.txt"));
    assert_model(content, trial, model);
}

/// Fails unless the model of `trial` is logged with its files, and registered.
fn assert_model(content: &Value, trial: &Value, model: &TrainedModel) {
    let models = content["experiments"]["everything"]["models"]
        .as_array()
        .unwrap();
    assert_eq!(models.len(), 1);
    let shown = &models[0];
    assert_eq!(trial["models"], serde_json::json!([shown["id"]]));
    assert_eq!(shown["status"], "READY");
    assert_eq!(shown["params"]["sha256"], model.sha256);
    assert_eq!(shown["flavors"]["ctseg"]["structures"][1], "spleen");
    assert_eq!(
        shown["inputs"][0]["tensor-spec"]["shape"],
        serde_json::json!([-1, -1, -1])
    );
    let files = shown["artifacts"].as_object().unwrap();
    let bundle = std::fs::read_dir(&model.bundle).unwrap();
    for entry in bundle.map(|entry| entry.unwrap().path()) {
        let name = format!("bundle/{}", entry.file_name().unwrap().to_string_lossy());
        assert_eq!(files[&name], file_sha256(&entry).unwrap());
    }
    assert!(files.contains_key("MLmodel") && files.contains_key("input_example.json"));
    let versions = content["registered"]["liver and spleen"]
        .as_array()
        .unwrap();
    assert_eq!(versions.len(), 1);
    let id = shown["id"].as_str().unwrap();
    assert_eq!(versions[0]["source"], format!("models:/{id}"));
    let registered = shown["tags"]["mlflow.modelVersions"].as_str().unwrap();
    assert!(registered.contains("liver and spleen"), "{registered}");
}

/// Eight runs that start at once share one parent; a run that names its parent is below it.
fn array_tasks_share_one_parent_run(test: &TestServer) {
    let folder = tempfile::tempdir().unwrap();
    let barrier = Barrier::new(8);
    let log_task = |task: usize, parent_run: Parent, concurrent: bool| {
        let run = folder.path().join(format!("task{task}"));
        std::fs::create_dir_all(&run).unwrap();
        let (log, observer) = CapturedLog::new();
        let experiment = Some("array".to_owned());
        let mlflow = Mlflow::new(Some(server(&test.uri())), experiment, None, &observer);
        let mlflow = mlflow.unwrap().with_parent_run(Some(parent_run));
        let name = format!("task {task}");
        let identity = RunIdentity {
            name: &name,
            folder: &run,
            parent: None,
        };
        if concurrent {
            barrier.wait();
        }
        mlflow.run_started(&identity).unwrap();
        wait_for("the run is not created", || {
            run.join("tracking/delivered.json").exists()
        });
        if concurrent {
            barrier.wait();
        }
        mlflow.run_ended(&identity, &Outcome::Finished).unwrap();
        assert!(log.warnings().is_empty(), "{:?}", log.warnings());
    };
    std::thread::scope(|scope| {
        let log_task = &log_task;
        for task in 0..8 {
            scope.spawn(move || log_task(task, Parent::group("slurm lab 70"), true));
        }
    });
    // One more that starts after all others have ended.
    log_task(8, Parent::group("slurm lab 70"), false);
    let mut content = test.content();
    // Parents created concurrently and then deleted do not count.
    let runs = content["experiments"]["array"]["runs"].as_array_mut();
    let runs = runs.unwrap();
    runs.retain(|run| run["stage"] == "active");
    assert_eq!(runs.len(), 10);
    let group = run_named(&content, "array", "slurm lab 70");
    assert_eq!(
        (&group["status"], &group["parent"]),
        (&"FINISHED".into(), &Value::Null)
    );
    for task in 0..9 {
        let run = run_named(&content, "array", &format!("task {task}"));
        assert_eq!(run["parent"], group["id"], "task {task}");
    }
    let named = group["id"].as_str().unwrap().to_owned();
    log_task(9, Parent::Run(named), false);
    let content = test.content();
    assert_eq!(
        run_named(&content, "array", "task 9")["parent"],
        group["id"]
    );
}

/// Runs `ctseg sync` in `folder`; returns stdout.
fn sync(test: &TestServer, folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = ctseg(folder, &[&["sync"], arguments].concat())
        .env("MLFLOW_TRACKING_URI", test.uri())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{text}\n{}",
        stderr(&output)
    );
    text
}

#[test]
fn runs_arrive_complete_and_once() {
    let Some(mut test) = TestServer::start(None) else {
        return;
    };
    everything_arrives(&test);
    array_tasks_share_one_parent_run(&test);
    deleted::a_deleted_experiment_is_restored(&test);
    fits::a_killed_fit_resumes_in_the_same_run(&test);
    fits::two_stages_survive_a_server_outage(&mut test);
}
