//! MLflow's REST API, as much of it as runs need. Everything may be asked for twice: what creates something looks
//! for it first.

use serde_json::{Value, json};

use super::batch::{Batch, tag};
use super::error::Fault;
use super::event::Status;
use super::http::Http;

/// The tag that our runs are known by: the key of the run, and for one of its networks also the network's name.
const RUN_KEY: &str = "ctseg.run_key";
/// The same for models.
const MODEL_KEY: &str = "ctseg.model_key";

/// A server's answers.
pub struct Api<'a> {
    pub http: &'a Http,
}

/// A run as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRun {
    pub id: String,
    pub artifact_uri: String,
    pub is_deleted: bool,
    /// Milliseconds since 1970.
    pub begun: i64,
}

/// An experiment as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownExperiment {
    pub id: String,
    pub is_deleted: bool,
}

/// A run to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun<'a> {
    pub experiment: &'a str,
    pub key: &'a str,
    pub name: &'a str,
    /// Number of the run that it belongs to.
    pub parent: Option<&'a str>,
    pub user: Option<&'a str>,
    /// Milliseconds since 1970.
    pub begun: i64,
    pub tags: &'a [(&'a str, &'a str)],
}

/// A model as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    pub id: String,
    pub artifact_uri: String,
}

/// A model to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewModel<'a> {
    pub experiment: &'a str,
    pub run: &'a str,
    pub key: &'a str,
    pub name: &'a str,
    pub facts: &'a [(String, String)],
}

fn api(path: &str) -> String {
    format!("/api/2.0/mlflow/{path}")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Quoted for a filter; keys are ours and hold no quotes, names of networks might.
fn equals(key: &str, value: &str) -> String {
    format!("tags.`{key}` = '{}'", value.replace('\'', "_"))
}

impl Api<'_> {
    fn post(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.http.post(&api(path), body)
    }

    /// The experiment called `name`, also a deleted one, if there is one.
    pub fn known_experiment(&self, name: &str) -> Result<Option<KnownExperiment>, Fault> {
        let query = [("experiment_name", name)];
        match self.http.get(&api("experiments/get-by-name"), &query) {
            Ok(answer) => Ok(Some(known_experiment(&answer["experiment"]))),
            Err(Fault::Refused(refusal)) if refusal.is_missing() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The number of the new experiment.
    pub fn create_experiment(&self, name: &str) -> Result<String, Fault> {
        let answer = self.post("experiments/create", &json!({"name": name}))?;
        Ok(text(&answer["experiment_id"]))
    }

    /// With the runs that were deleted with it.
    pub fn restore_experiment(&self, id: &str) -> Result<(), Fault> {
        let body = json!({"experiment_id": id});
        self.post("experiments/restore", &body).map(drop)
    }

    /// The runs with this key, also deleted ones.
    pub fn runs_of(&self, experiment: &str, key: &str) -> Result<Vec<KnownRun>, Fault> {
        let body = json!({
            "experiment_ids": [experiment], "filter": equals(RUN_KEY, key),
            "run_view_type": "ALL", "max_results": 100,
        });
        let answer = self.post("runs/search", &body)?;
        let runs = answer["runs"].as_array();
        let runs = runs.map_or(&[] as &[Value], Vec::as_slice);
        Ok(runs.iter().map(known_run).collect())
    }

    /// The run with this key, if there is one.
    pub fn run_of(&self, experiment: &str, key: &str) -> Result<Option<KnownRun>, Fault> {
        let mut runs = self.runs_of(experiment, key)?;
        // Those that are not deleted first.
        runs.sort_by_key(|run| run.is_deleted);
        Ok(runs.into_iter().next())
    }

    pub fn run(&self, id: &str) -> Result<KnownRun, Fault> {
        let answer = self.http.get(&api("runs/get"), &[("run_id", id)])?;
        Ok(known_run(&answer["run"]))
    }

    pub fn create_run(&self, run: &NewRun) -> Result<KnownRun, Fault> {
        let mut tags = vec![tag(RUN_KEY, run.key)];
        tags.extend(run.parent.map(|parent| tag("mlflow.parentRunId", parent)));
        tags.extend(run.user.map(|user| tag("mlflow.user", user)));
        tags.extend(run.tags.iter().map(|(name, value)| tag(name, value)));
        let body = json!({
            "experiment_id": run.experiment, "run_name": run.name, "start_time": run.begun,
            "user_id": run.user.unwrap_or_default(), "tags": tags,
        });
        let answer = self.post("runs/create", &body)?;
        Ok(known_run(&answer["run"]))
    }

    /// `at` in milliseconds since 1970.
    pub fn set_status(&self, run: &str, status: Status, at: i64) -> Result<(), Fault> {
        let mut body = json!({"run_id": run, "status": status});
        if status != Status::Running {
            body["end_time"] = json!(at);
        }
        self.post("runs/update", &body).map(drop)
    }

    pub fn set_tag(&self, run: &str, name: &str, value: &str) -> Result<(), Fault> {
        let body = json!({"run_id": run, "key": name, "value": value});
        self.post("runs/set-tag", &body).map(drop)
    }

    /// Runs that are deleted can be brought back.
    pub fn delete_run(&self, run: &str) -> Result<(), Fault> {
        self.post("runs/delete", &json!({"run_id": run})).map(drop)
    }

    pub fn log(&self, run: &str, batch: &Batch) -> Result<(), Fault> {
        self.post("runs/log-batch", &batch.request(run)).map(drop)
    }

    pub fn log_dataset(&self, run: &str, dataset: &Value, context: &str) -> Result<(), Fault> {
        let tags = json!([{"key": "mlflow.data.context", "value": context}]);
        let body = json!({"run_id": run, "datasets": [{"dataset": dataset, "tags": tags}]});
        self.post("runs/log-inputs", &body).map(drop)
    }

    /// The model with this key, if there is one.
    pub fn model_of(&self, experiment: &str, key: &str) -> Result<Option<KnownModel>, Fault> {
        let body = json!({
            "experiment_ids": [experiment], "filter": equals(MODEL_KEY, key), "max_results": 1,
        });
        let answer = self.post("logged-models/search", &body)?;
        let found = answer["models"]
            .as_array()
            .and_then(|models| models.first());
        Ok(found.map(known_model))
    }

    pub fn create_model(&self, model: &NewModel) -> Result<KnownModel, Fault> {
        let facts: Vec<Value> = model
            .facts
            .iter()
            .map(|(name, value)| json!({"key": name, "value": value}))
            .collect();
        let body = json!({
            "experiment_id": model.experiment, "name": model.name, "model_type": "ctseg",
            "source_run_id": model.run, "params": facts, "tags": [tag(MODEL_KEY, model.key)],
        });
        let answer = self.post("logged-models", &body)?;
        Ok(known_model(&answer["model"]))
    }

    /// The model's files are there.
    pub fn finish_model(&self, id: &str) -> Result<(), Fault> {
        // 2 is LOGGED_MODEL_READY; the server takes no name here.
        let body = json!({"model_id": id, "status": 2});
        let path = api(&format!("logged-models/{id}"));
        self.http.patch(&path, &body).map(drop)
    }

    /// The run made the model; said once.
    pub fn link_model(&self, run: &str, model: &str) -> Result<(), Fault> {
        let answer = self.http.get(&api("runs/get"), &[("run_id", run)])?;
        let outputs = &answer["run"]["outputs"]["model_outputs"];
        let known = |outputs: &Vec<Value>| outputs.iter().any(|o| o["model_id"] == model);
        if outputs.as_array().is_some_and(known) {
            return Ok(());
        }
        let body = json!({"run_id": run, "models": [{"model_id": model, "step": 0}]});
        self.post("runs/outputs", &body).map(drop)
    }

    /// A version of the registered model `name`, which is made where need be: its number. `source` is where its
    /// files are.
    pub fn register(
        &self,
        name: &str,
        source: &str,
        run: &str,
        model: Option<&str>,
        key: &str,
    ) -> Result<String, Fault> {
        match self.post("registered-models/create", &json!({"name": name})) {
            Err(Fault::Refused(refusal)) if refusal.exists_already() => {}
            other => drop(other?),
        }
        let filter = format!("name='{}'", name.replace('\'', "_"));
        let query = [("filter", filter.as_str()), ("max_results", "1000")];
        let answer = self.http.get(&api("model-versions/search"), &query)?;
        let versions = answer["model_versions"].as_array();
        let ours = versions.and_then(|versions| {
            versions.iter().find(|version| {
                let tags = version["tags"].as_array();
                tags.is_some_and(|tags| tags.contains(&tag(MODEL_KEY, key)))
            })
        });
        if let Some(version) = ours {
            return Ok(text(&version["version"]));
        }
        let mut body = json!({
            "name": name, "source": source, "run_id": run, "tags": [tag(MODEL_KEY, key)],
        });
        if let Some(model) = model {
            body["model_id"] = json!(model);
        }
        let answer = self.post("model-versions/create", &body)?;
        Ok(text(&answer["model_version"]["version"]))
    }
}

/// An experiment in an answer; what is not there is empty.
pub fn known_experiment(experiment: &Value) -> KnownExperiment {
    KnownExperiment {
        id: text(&experiment["experiment_id"]),
        is_deleted: experiment["lifecycle_stage"] == "deleted",
    }
}

/// A run in an answer.
pub fn known_run(run: &Value) -> KnownRun {
    let info = &run["info"];
    KnownRun {
        id: text(&info["run_id"]),
        artifact_uri: text(&info["artifact_uri"]),
        is_deleted: info["lifecycle_stage"] == "deleted",
        begun: info["start_time"].as_i64().unwrap_or_default(),
    }
}

/// A model in an answer.
pub fn known_model(model: &Value) -> KnownModel {
    KnownModel {
        id: text(&model["info"]["model_id"]),
        artifact_uri: text(&model["info"]["artifact_uri"]),
    }
}
