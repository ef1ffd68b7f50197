//! Logs a model bundle: a logged model with its `MLmodel` file, signature and input example, and a version of the
//! registered model.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::api::{Api, ModelInfo, NewModel};
use super::artifacts::{Multipart, Store, list_files};
use super::error::Fault;

/// A bundle to log.
#[derive(Debug, Clone)]
pub struct LoggedModel<'a> {
    pub bundle: PathBuf,
    /// Name of the registered model.
    pub name: &'a str,
    pub sha256: &'a str,
    /// In label order.
    pub structures: &'a [String],
    pub spacing_mm: &'a [f64],
    /// Milliseconds since 1970.
    pub created: i64,
}

/// The bundle's folder in the model's artifacts.
const BUNDLE: &str = "bundle";

/// The model's folder in the run's artifacts, on servers without logged models (before MLflow 3).
const RUN_ARTIFACT_PATH: &str = "model";

/// Uploads a file unless the server has it.
pub type PutFile<'a> = &'a mut dyn FnMut(&Store, &Path, &str) -> Result<(), Fault>;

/// The run that produced the model.
#[derive(Debug, Clone, Copy)]
pub struct SourceRun<'a> {
    pub experiment: &'a str,
    pub run: &'a str,
    pub run_key: &'a str,
    pub artifact_uri: &'a str,
}

/// Logs and registers the model. Idempotent.
pub fn log_model(
    api: &Api,
    source_run: SourceRun,
    model: &LoggedModel,
    parts: Multipart,
    put_file: PutFile,
) -> Result<(), Fault> {
    let key = format!(
        "{}/{}",
        source_run.run_key,
        &model.sha256[..model.sha256.len().min(16)]
    );
    let name = valid_model_name(model.name);
    let known = match api.find_model(source_run.experiment, &key) {
        Ok(Some(known)) => Some(known),
        Ok(None) => Some(api.create_model(&NewModel {
            experiment: source_run.experiment,
            run: source_run.run,
            key: &key,
            name: &name,
            params: &params(model),
        })?),
        Err(Fault::Refused(refusal)) if refusal.is_unknown_request() => None,
        Err(fault) => return Err(fault),
    };
    let (uri, folder) = match &known {
        Some(known) => (known.artifact_uri.as_str(), ""),
        None => (source_run.artifact_uri, "model/"),
    };
    let store = Store::open(api.http, uri, parts)?;
    for (path, below) in list_files(&model.bundle)? {
        put_file(&store, &path, &format!("{folder}{BUNDLE}/{below}"))?;
    }
    let mlmodel_file = mlmodel(model, source_run.run, known.as_ref());
    store.put_text(
        format!("{:#}\n", input_example()),
        &format!("{folder}{EXAMPLE}"),
    )?;
    store.put_text(format!("{mlmodel_file:#}\n"), &format!("{folder}MLmodel"))?;
    let source = match &known {
        Some(known) => {
            api.finish_model(&known.id)?;
            api.link_model(source_run.run, &known.id)?;
            format!("models:/{}", known.id)
        }
        None => format!("{}/{RUN_ARTIFACT_PATH}", source_run.artifact_uri),
    };
    let id = known.as_ref().map(|known| known.id.as_str());
    api.register(&name, &source, source_run.run, id, &key)
        .map(drop)
}

fn params(model: &LoggedModel) -> Vec<(String, String)> {
    let spacing: Vec<String> = model.spacing_mm.iter().map(f64::to_string).collect();
    vec![
        ("sha256".to_owned(), model.sha256.to_owned()),
        (
            "structures".to_owned(),
            super::batch::truncated(&model.structures.join(", "), 500),
        ),
        ("spacing_mm".to_owned(), spacing.join(" × ")),
    ]
}

/// Replaces characters that are invalid in model names.
fn valid_model_name(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|letter| {
            if "/:.%\"'".contains(letter) {
                '_'
            } else {
                letter
            }
        })
        .collect();
    match name.trim() {
        "" => "ctseg".to_owned(),
        name => name.to_owned(),
    }
}

const EXAMPLE: &str = "input_example.json";

/// A volume of air and soft tissue in HU, in TensorFlow Serving's JSON format, which MLflow reads.
fn input_example() -> Value {
    json!({"inputs": {"volume_hu": [[[-1000.0, -1000.0], [40.0, 60.0]], [[-1000.0, -1000.0], [50.0, 55.0]]]}})
}

/// The content of `MLmodel`: YAML, of which JSON is a subset.
fn mlmodel(model: &LoggedModel, run: &str, known: Option<&ModelInfo>) -> Value {
    let tensor = |name: &str, kind: &str| {
        // (z, y, x)
        let spec = json!({"dtype": kind, "shape": [-1, -1, -1]});
        json!([{"name": name, "type": "tensor", "tensor-spec": spec}]).to_string()
    };
    let created = jiff::Timestamp::from_millisecond(model.created).unwrap_or_default();
    let labels = if model.structures.len() > 255 {
        "uint16"
    } else {
        "uint8"
    };
    let mut mlmodel_file = json!({
        "run_id": run,
        "utc_time_created": created.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string(),
        "flavors": {"ctseg": {
            "bundle": BUNDLE,
            "ctseg_version": env!("CARGO_PKG_VERSION"),
            "sha256": model.sha256,
            "structures": model.structures,
            "spacing_mm": model.spacing_mm,
        }},
        "signature": {
            "inputs": tensor("volume_hu", "float32"),
            "outputs": tensor("labels", labels),
            "params": null,
        },
        "is_signature_from_type_hint": false,
        "type_hint_from_example": false,
        "saved_input_example_info": {
            "artifact_path": EXAMPLE, "type": "ndarray", "format": "tf-serving",
        },
    });
    match known {
        Some(known) => {
            mlmodel_file["model_id"] = json!(known.id);
            mlmodel_file["model_uuid"] = json!(known.id);
            mlmodel_file["artifact_path"] = json!(known.artifact_uri);
        }
        None => mlmodel_file["artifact_path"] = json!(RUN_ARTIFACT_PATH),
    }
    mlmodel_file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_are_what_the_registry_accepts() {
        assert_eq!(valid_model_name("liver/v1.2"), "liver_v1_2");
        assert_eq!(valid_model_name(" "), "ctseg");
    }
}
