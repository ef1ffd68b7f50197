//! The part of MLflow's REST API that runs need. Callers look for an object by its key before they create it, so that
//! a repeated request creates nothing twice.

use serde_json::{Value, json};

use super::batch::{Batch, tag};
use super::error::Fault;
use super::event::Status;
use super::http::Http;

/// The tag that identifies a run: the run's key, for a network's run followed by the network's name.
const RUN_KEY: &str = "ctseg.run_key";
/// The tag that identifies a model.
const MODEL_KEY: &str = "ctseg.model_key";

/// Requests to one server.
pub struct Api<'a> {
    pub http: &'a Http,
}

/// A run on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    pub id: String,
    pub artifact_uri: String,
    pub is_deleted: bool,
    /// Milliseconds since 1970.
    pub start_time: i64,
}

/// An experiment on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExperimentInfo {
    pub id: String,
    pub is_deleted: bool,
}

/// A run to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun<'a> {
    pub experiment: &'a str,
    pub key: &'a str,
    pub name: &'a str,
    /// Run ID of its parent run.
    pub parent: Option<&'a str>,
    pub user: Option<&'a str>,
    /// Milliseconds since 1970.
    pub start_time: i64,
    pub tags: &'a [(&'a str, &'a str)],
}

/// A logged model on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    pub id: String,
    pub artifact_uri: String,
}

/// A logged model to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewModel<'a> {
    pub experiment: &'a str,
    pub run: &'a str,
    pub key: &'a str,
    pub name: &'a str,
    pub params: &'a [(String, String)],
}

fn api(path: &str) -> String {
    format!("/api/2.0/mlflow/{path}")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A filter for a tag. Names of networks may contain quotes, which filters do not accept.
fn equals(key: &str, value: &str) -> String {
    format!("tags.`{key}` = '{}'", value.replace('\'', "_"))
}

impl Api<'_> {
    fn post(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.http.post(&api(path), body)
    }

    /// The experiment called `name`, including a deleted one.
    pub fn get_experiment_by_name(&self, name: &str) -> Result<Option<ExperimentInfo>, Fault> {
        let query = [("experiment_name", name)];
        match self.http.get(&api("experiments/get-by-name"), &query) {
            Ok(answer) => Ok(Some(parse_experiment(&answer["experiment"]))),
            Err(Fault::Refused(refusal)) if refusal.is_missing() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Creates an experiment and returns its ID.
    pub fn create_experiment(&self, name: &str) -> Result<String, Fault> {
        let answer = self.post("experiments/create", &json!({"name": name}))?;
        Ok(text(&answer["experiment_id"]))
    }

    /// Restores an experiment and the runs that were deleted with it.
    pub fn restore_experiment(&self, id: &str) -> Result<(), Fault> {
        let body = json!({"experiment_id": id});
        self.post("experiments/restore", &body).map(drop)
    }

    /// The runs with this key, including deleted ones.
    pub fn find_runs(&self, experiment: &str, key: &str) -> Result<Vec<RunInfo>, Fault> {
        let body = json!({
            "experiment_ids": [experiment], "filter": equals(RUN_KEY, key),
            "run_view_type": "ALL", "max_results": 100,
        });
        let answer = self.post("runs/search", &body)?;
        let runs = answer["runs"].as_array();
        let runs = runs.map_or(&[] as &[Value], Vec::as_slice);
        Ok(runs.iter().map(parse_run).collect())
    }

    /// The run with this key, if any; a deleted one only if there is no other.
    pub fn find_run(&self, experiment: &str, key: &str) -> Result<Option<RunInfo>, Fault> {
        let mut runs = self.find_runs(experiment, key)?;
        runs.sort_by_key(|run| run.is_deleted);
        Ok(runs.into_iter().next())
    }

    pub fn run(&self, id: &str) -> Result<RunInfo, Fault> {
        let answer = self.http.get(&api("runs/get"), &[("run_id", id)])?;
        Ok(parse_run(&answer["run"]))
    }

    pub fn create_run(&self, run: &NewRun) -> Result<RunInfo, Fault> {
        let mut tags = vec![tag(RUN_KEY, run.key)];
        tags.extend(run.parent.map(|parent| tag("mlflow.parentRunId", parent)));
        tags.extend(run.user.map(|user| tag("mlflow.user", user)));
        tags.extend(run.tags.iter().map(|(name, value)| tag(name, value)));
        let body = json!({
            "experiment_id": run.experiment, "run_name": run.name, "start_time": run.start_time,
            "user_id": run.user.unwrap_or_default(), "tags": tags,
        });
        let answer = self.post("runs/create", &body)?;
        Ok(parse_run(&answer["run"]))
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

    /// Marks a run as deleted; it can be restored.
    pub fn delete_run(&self, run: &str) -> Result<(), Fault> {
        self.post("runs/delete", &json!({"run_id": run})).map(drop)
    }

    pub fn log_batch(&self, run: &str, batch: &Batch) -> Result<(), Fault> {
        self.post("runs/log-batch", &batch.request(run)).map(drop)
    }

    pub fn log_dataset(&self, run: &str, dataset: &Value, context: &str) -> Result<(), Fault> {
        let tags = json!([{"key": "mlflow.data.context", "value": context}]);
        let body = json!({"run_id": run, "datasets": [{"dataset": dataset, "tags": tags}]});
        self.post("runs/log-inputs", &body).map(drop)
    }

    /// The logged model with this key, if any.
    pub fn find_model(&self, experiment: &str, key: &str) -> Result<Option<ModelInfo>, Fault> {
        let body = json!({
            "experiment_ids": [experiment], "filter": equals(MODEL_KEY, key), "max_results": 1,
        });
        let answer = self.post("logged-models/search", &body)?;
        let found = answer["models"]
            .as_array()
            .and_then(|models| models.first());
        Ok(found.map(parse_model))
    }

    pub fn create_model(&self, model: &NewModel) -> Result<ModelInfo, Fault> {
        let params: Vec<Value> = model
            .params
            .iter()
            .map(|(name, value)| json!({"key": name, "value": value}))
            .collect();
        let body = json!({
            "experiment_id": model.experiment, "name": model.name, "model_type": "ctseg",
            "source_run_id": model.run, "params": params, "tags": [tag(MODEL_KEY, model.key)],
        });
        let answer = self.post("logged-models", &body)?;
        Ok(parse_model(&answer["model"]))
    }

    /// Marks a model as complete.
    pub fn finish_model(&self, id: &str) -> Result<(), Fault> {
        // 2 is LOGGED_MODEL_READY; the server does not accept the name here.
        let body = json!({"model_id": id, "status": 2});
        let path = api(&format!("logged-models/{id}"));
        self.http.patch(&path, &body).map(drop)
    }

    /// Records the model as an output of the run, unless it is one already.
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

    /// Registers a version of the model `name`, creating the registered model if needed, and returns the version
    /// number. `source` is the location of its files.
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

/// Parses an experiment; missing fields are empty.
pub fn parse_experiment(experiment: &Value) -> ExperimentInfo {
    ExperimentInfo {
        id: text(&experiment["experiment_id"]),
        is_deleted: experiment["lifecycle_stage"] == "deleted",
    }
}

/// Parses a run; missing fields are empty.
pub fn parse_run(run: &Value) -> RunInfo {
    let info = &run["info"];
    RunInfo {
        id: text(&info["run_id"]),
        artifact_uri: text(&info["artifact_uri"]),
        is_deleted: info["lifecycle_stage"] == "deleted",
        start_time: info["start_time"].as_i64().unwrap_or_default(),
    }
}

/// Parses a logged model; missing fields are empty.
pub fn parse_model(model: &Value) -> ModelInfo {
    ModelInfo {
        id: text(&model["info"]["model_id"]),
        artifact_uri: text(&model["info"]["artifact_uri"]),
    }
}
