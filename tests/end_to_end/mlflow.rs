//! Runs in a real MLflow server, as its own Python client sees them. Left out without `CTSEG_TEST_MLFLOW`.

use crate::common;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Barrier;

use crate::common::mlflow::{Heard, PASSWORD, TestServer, server, wait_for};
use crate::common::{SMALL, ctseg, phantoms, publish_random, small_recipe, stderr};
use ctseg_base::hash::file_sha256;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::run::tracker::{
    DatasetUsed, Event, ModelMade, Outcome, Point, RunIdentity, Tracker,
};
use ctseg_tracking::mlflow::Mlflow;
use ctseg_tracking::mlflow::parent::Above;
use serde_json::Value;

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

/// The run called `name`; there is exactly one.
fn run_called<'a>(content: &'a Value, experiment: &str, name: &str) -> &'a Value {
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
    let of = |point: &Value| {
        let value = point[1].as_str().unwrap().to_owned();
        (point[0].as_u64().unwrap(), value)
    };
    points.iter().map(of).collect()
}

/// A model with random weights, and what a run says of it.
fn a_model(folder: &Path) -> ModelMade {
    publish_random(folder, &small_recipe("1", &[]), &[&["a"], &["b"]]);
    ModelMade {
        bundle: folder.to_path_buf(),
        sha256: Bundle::open(folder).unwrap().sha256(),
        name: "liver and spleen".to_owned(),
        structures: vec!["liver".to_owned(), "spleen".to_owned()],
        spacing_mm: vec![14.0, 14.0, 14.0],
    }
}

/// Tells everything that can be told, in the run folder `folder`.
fn tell_everything(tracker: &dyn Tracker, folder: &Path, model: &ModelMade) {
    let sweep = RunIdentity {
        name: "sweep",
        folder,
        parent: None,
    };
    tracker.begun(&sweep).unwrap();
    let trial = folder.join("trials/000");
    std::fs::create_dir_all(&trial).unwrap();
    let identity = RunIdentity {
        name: "000",
        folder: &trial,
        parent: Some("sweep"),
    };
    tracker.begun(&identity).unwrap();
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
    let events = [
        Event::Parameters(many),
        Event::Tags(pairs(&[
            ("host", "here"),
            ("mlflow.source.name", "ctseg fit"),
        ])),
        Event::Tags(pairs(&[("host", "there")])),
        Event::Dataset(DatasetUsed {
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
    ];
    for event in &events {
        tracker.happened(event).unwrap();
    }
    tracker.ended(&identity, &Outcome::Finished).unwrap();
    let failed = Outcome::Failed("disk full".to_owned());
    tracker.ended(&sweep, &failed).unwrap();
}

/// All that a run can tell arrives, and arriving twice changes nothing.
fn everything_arrives(test: &TestServer) {
    let folder = tempfile::tempdir().unwrap();
    let model = a_model(&folder.path().join("model"));
    let runs = folder.path().join("runs/sweep");
    std::fs::create_dir_all(&runs).unwrap();
    let (heard, observer) = Heard::new();
    let mlflow = Mlflow::new(
        Some(server(&test.uri())),
        Some("everything".to_owned()),
        None,
        &observer,
    );
    tell_everything(&mlflow.unwrap(), &runs, &model);
    let warnings = heard.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("gone.txt"),
        "{warnings:?}"
    );
    assert!(heard.sayings()[0].contains("/#/experiments/"));
    let content = test.content();
    assert_everything(&content, &runs, &model);

    // Where it is forgotten what was delivered, all is sent again.
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

fn assert_everything(content: &Value, runs: &Path, model: &ModelMade) {
    let sweep = run_called(content, "everything", "sweep");
    assert_eq!(
        (&sweep["status"], &sweep["parent"]),
        (&"FAILED".into(), &Value::Null)
    );
    assert_eq!(sweep["tags"]["ctseg.failure"], "disk full");
    let trial = run_called(content, "everything", "000");
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
    // What its databases make of infinity.
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

/// `ctseg sync` in `folder`; what it prints.
/// Eight that begin at once agree on one parent; a run that names its parent lies below that.
fn tasks_of_an_array_lie_below_one_run(test: &TestServer) {
    let folder = tempfile::tempdir().unwrap();
    let begin_at_once = Barrier::new(8);
    let told = |task: usize, above: Above, together: bool| {
        let run = folder.path().join(format!("task{task}"));
        std::fs::create_dir_all(&run).unwrap();
        let (heard, observer) = Heard::new();
        let experiment = Some("array".to_owned());
        let mlflow = Mlflow::new(Some(server(&test.uri())), experiment, None, &observer);
        let mlflow = mlflow.unwrap().below(Some(above));
        let name = format!("task {task}");
        let identity = RunIdentity {
            name: &name,
            folder: &run,
            parent: None,
        };
        if together {
            begin_at_once.wait();
        }
        mlflow.begun(&identity).unwrap();
        wait_for("the run is made", || {
            run.join("tracking/delivered.json").exists()
        });
        if together {
            begin_at_once.wait();
        }
        mlflow.ended(&identity, &Outcome::Finished).unwrap();
        assert!(heard.warnings().is_empty(), "{:?}", heard.warnings());
    };
    std::thread::scope(|scope| {
        let told = &told;
        for task in 0..8 {
            scope.spawn(move || told(task, Above::group("slurm lab 70"), true));
        }
    });
    // One more that begins when all is over.
    told(8, Above::group("slurm lab 70"), false);
    let mut content = test.content();
    // Those that were made at once by several and taken back.
    let runs = content["experiments"]["array"]["runs"].as_array_mut();
    let runs = runs.unwrap();
    runs.retain(|run| run["stage"] == "active");
    assert_eq!(runs.len(), 10);
    let group = run_called(&content, "array", "slurm lab 70");
    assert_eq!(
        (&group["status"], &group["parent"]),
        (&"FINISHED".into(), &Value::Null)
    );
    for task in 0..9 {
        let run = run_called(&content, "array", &format!("task {task}"));
        assert_eq!(run["parent"], group["id"], "task {task}");
    }
    let named = group["id"].as_str().unwrap().to_owned();
    told(9, Above::Run(named), false);
    let content = test.content();
    assert_eq!(
        run_called(&content, "array", "task 9")["parent"],
        group["id"]
    );
}

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

fn only_run(folder: &Path) -> PathBuf {
    let mut runs = std::fs::read_dir(folder).unwrap();
    let found = runs.next().unwrap().unwrap().path();
    assert!(runs.next().is_none());
    found
}

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

/// Every number of `metrics.jsonl` is a point of its network's run, once.
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

/// Begins a fit of 16 epochs in `folder` that tells `experiment`.
fn begun(test: &TestServer, folder: &Path, data: &Path, stage: &str, experiment: &str) -> Child {
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

/// What the fit said to whom the server's absence matters.
fn ended_without_server(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.matches("waits in its folder").count(), 1, "{said}");
    said
}

/// A run for all networks and one for each, all over.
fn assert_finished(content: &Value, experiment: &str) {
    let runs = content["experiments"][experiment]["runs"]
        .as_array()
        .unwrap();
    assert_eq!(runs.len(), 3);
    let parents: Vec<&Value> = runs.iter().filter(|run| run["parent"].is_null()).collect();
    assert_eq!(parents.len(), 1);
    let name = parents[0]["name"].as_str().unwrap();
    assert!(name.starts_with("unet2d_"), "{name}");
    for run in runs {
        assert_eq!(run["status"], "FINISHED", "{run:#}");
        if run["id"] != parents[0]["id"] {
            assert_eq!(run["parent"], parents[0]["id"]);
        }
    }
}

/// The server goes away while two folds of stage 1 are trained and comes back in the middle of stage 2; nothing is
/// lost, nothing is there twice.
fn two_stages_outlive_their_server(test: &mut TestServer) {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let folder = tempfile::tempdir().unwrap();
    let first = begun(test, folder.path(), &descriptor, "demo-coarse", "stage_1");
    let standing_of = |experiment: &str| {
        let run = std::fs::read_dir(folder.path().join(experiment))
            .ok()?
            .next()?;
        let path = run.ok()?.path().join("tracking/delivered.json");
        std::fs::read_to_string(path).ok()
    };
    wait_for("nothing was delivered", || {
        standing_of("stage_1").is_some_and(|text| text.contains("\"fold 0\""))
    });
    test.stop();
    let said = ended_without_server(first);
    assert!(said.contains("'ctseg sync"), "{said}");
    let run_1 = only_run(&folder.path().join("stage_1"));

    // Away still: says so and leaves everything as it is.
    let before = standing_of("stage_1");
    let nobody = ctseg(folder.path(), &["sync", "stage_1"])
        .env("MLFLOW_TRACKING_URI", test.uri())
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(standing_of("stage_1"), before);

    let second = begun(test, folder.path(), &descriptor, "demo-refine", "stage_2");
    let epochs = || {
        let run = std::fs::read_dir(folder.path().join("stage_2"))
            .ok()?
            .next()?;
        let text = std::fs::read_to_string(run.ok()?.path().join("metrics.jsonl")).ok()?;
        Some(text.lines().count())
    };
    wait_for("no three epochs", || {
        epochs().is_some_and(|count| count > 3)
    });
    test.restart();
    ended_without_server(second);
    let run_2 = only_run(&folder.path().join("stage_2"));

    let both: Vec<_> = (0..2)
        .map(|_| {
            let mut command = ctseg(folder.path(), &["--json", "sync", "stage_1", "stage_2"]);
            command.env("MLFLOW_TRACKING_URI", test.uri());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let content = test.content();
    for (experiment, run) in [("stage_1", &run_1), ("stage_2", &run_2)] {
        assert_epochs(&content, experiment, run, 16);
        assert_finished(&content, experiment);
        let text = sync(test, folder.path(), &[run.to_str().unwrap()], 0);
        assert!(text.contains(" 0 ") && text.contains("complete"), "{text}");
    }
}

/// Killed, and gone on with: one run in the server, every epoch once.
fn a_killed_fit_goes_on_in_its_run(test: &TestServer) {
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
    wait_for("no three epochs", || {
        epochs().is_some_and(|count| count > 3)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let text = sync(test, folder.path(), &[], 0);
    assert!(text.contains("complete"), "{text}");
    let run = only_run(&folder.path().join("runs"));
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

#[test]
fn runs_are_in_the_server_whole_and_once() {
    let Some(mut test) = TestServer::start(None) else {
        return;
    };
    everything_arrives(&test);
    tasks_of_an_array_lie_below_one_run(&test);
    a_killed_fit_goes_on_in_its_run(&test);
    two_stages_outlive_their_server(&mut test);
}

#[test]
fn a_server_with_logins_takes_runs_of_those_it_knows() {
    let Some(test) = TestServer::start(Some("basic-auth")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = a_model(&folder.path().join("model"));
    let runs = folder.path().join("runs/sweep");
    std::fs::create_dir_all(&runs).unwrap();
    let (heard, observer) = Heard::new();
    let mut stranger = server(&test.uri());
    stranger.trust.authorities = Some(test.authority());
    let experiment = Some("everything".to_owned());
    let mlflow = Mlflow::new(Some(stranger), experiment, None, &observer);
    tell_everything(&mlflow.unwrap(), &runs, &model);
    let warnings = heard.warnings();
    assert!(
        warnings[0].contains("401") && warnings[0].contains("MLFLOW_TRACKING_USERNAME"),
        "{warnings:?}"
    );
    let refused = |variables: &[(&str, &str)]| {
        let output = ctseg(folder.path(), &["sync"])
            .env("MLFLOW_TRACKING_URI", test.uri())
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        stderr(&output) + &String::from_utf8_lossy(&output.stdout)
    };
    let wrong = [
        ("MLFLOW_TRACKING_USERNAME", "admin"),
        ("MLFLOW_TRACKING_PASSWORD", "wr0ng-secret"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
    ];
    let said = refused(&wrong);
    assert!(said.contains("401") && !said.contains("wr0ng"), "{said}");
    // Nobody that is trusted vouches for it.
    let said = refused(&wrong[..2]);
    assert!(
        said.contains("certificate") && !said.contains("wr0ng"),
        "{said}"
    );

    // The login in the address, from ctseg.toml.
    let login = PASSWORD.replace('&', "%26").replace('/', "%2F");
    let address = test
        .uri()
        .replace("https://", &format!("https://admin:{login}@"));
    std::fs::write(
        folder.path().join("ctseg.toml"),
        format!("[mlflow]\nuri = \"{address}\"\n"),
    )
    .unwrap();
    let output = ctseg(folder.path(), &["sync"])
        .env("MLFLOW_TRACKING_SERVER_CERT_PATH", test.authority())
        .output()
        .unwrap();
    let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("complete"), "{said}");
    assert_everything(&test.content(), &runs, &model);
    for place in [&runs, &runs.join("trials/000")] {
        for file in std::fs::read_dir(place.join("tracking")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let secret = [PASSWORD, &login, "wr0ng"];
            assert!(!secret.iter().any(|secret| text.contains(secret)), "{text}");
        }
    }
    assert!(!said.contains(&login) && !said.contains(PASSWORD));
}
