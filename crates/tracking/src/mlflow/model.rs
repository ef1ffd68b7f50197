//! A model bundle as MLflow shows models: a logged model with its `MLmodel` file, signature and input example, and a
//! version of the registered model.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::api::{Api, KnownModel, NewModel};
use super::artifacts::{Parts, Store, files_of};
use super::error::Fault;

/// A bundle to be shown.
#[derive(Debug, Clone)]
pub struct Shown<'a> {
    pub bundle: PathBuf,
    /// Registered as.
    pub name: &'a str,
    pub sha256: &'a str,
    /// In order of their labels.
    pub structures: &'a [String],
    pub spacing_mm: &'a [f64],
    /// Milliseconds since 1970.
    pub made: i64,
}

/// Where the bundle lies among the model's files.
const BUNDLE: &str = "bundle";

/// In the run's own files, where the server knows no logged models (before MLflow 3).
const WITHIN_RUN: &str = "model";

/// Puts a file somewhere unless it is there.
pub type Sending<'a> = &'a mut dyn FnMut(&Store, &Path, &str) -> Result<(), Fault>;

/// The run that made it.
#[derive(Debug, Clone, Copy)]
pub struct Maker<'a> {
    pub experiment: &'a str,
    pub run: &'a str,
    pub run_key: &'a str,
    pub artifact_uri: &'a str,
}

/// Shows the model. Done again it changes nothing.
pub fn show(
    api: &Api,
    maker: Maker,
    model: &Shown,
    parts: Parts,
    sending: Sending,
) -> Result<(), Fault> {
    let key = format!(
        "{}/{}",
        maker.run_key,
        &model.sha256[..model.sha256.len().min(16)]
    );
    let name = permitted(model.name);
    let known = match api.model_of(maker.experiment, &key) {
        Ok(Some(known)) => Some(known),
        Ok(None) => Some(api.create_model(&NewModel {
            experiment: maker.experiment,
            run: maker.run,
            key: &key,
            name: &name,
            facts: &facts(model),
        })?),
        Err(Fault::Refused(refusal)) if refusal.is_unknown_request() => None,
        Err(fault) => return Err(fault),
    };
    let (uri, folder) = match &known {
        Some(known) => (known.artifact_uri.as_str(), ""),
        None => (maker.artifact_uri, "model/"),
    };
    let store = Store::open(api.http, uri, parts)?;
    for (path, below) in files_of(&model.bundle)? {
        sending(&store, &path, &format!("{folder}{BUNDLE}/{below}"))?;
    }
    let described = mlmodel(model, maker.run, known.as_ref());
    store.put_text(
        format!("{:#}\n", input_example()),
        &format!("{folder}{EXAMPLE}"),
    )?;
    store.put_text(format!("{described:#}\n"), &format!("{folder}MLmodel"))?;
    let source = match &known {
        Some(known) => {
            api.finish_model(&known.id)?;
            api.link_model(maker.run, &known.id)?;
            format!("models:/{}", known.id)
        }
        None => format!("{}/{WITHIN_RUN}", maker.artifact_uri),
    };
    let id = known.as_ref().map(|known| known.id.as_str());
    api.register(&name, &source, maker.run, id, &key).map(drop)
}

fn facts(model: &Shown) -> Vec<(String, String)> {
    let spacing: Vec<String> = model.spacing_mm.iter().map(f64::to_string).collect();
    vec![
        ("sha256".to_owned(), model.sha256.to_owned()),
        (
            "structures".to_owned(),
            super::batch::shortened(&model.structures.join(", "), 500),
        ),
        ("spacing_mm".to_owned(), spacing.join(" × ")),
    ]
}

/// Without the characters that names of models may not have.
fn permitted(name: &str) -> String {
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

/// A volume as TensorFlow Serving's JSON has tensors, which MLflow reads: air and a little soft tissue, in HU.
fn input_example() -> Value {
    json!({"inputs": {"volume_hu": [[[-1000.0, -1000.0], [40.0, 60.0]], [[-1000.0, -1000.0], [50.0, 55.0]]]}})
}

/// The text of `MLmodel`, which is YAML, of which JSON is a part.
fn mlmodel(model: &Shown, run: &str, known: Option<&KnownModel>) -> Value {
    let tensor = |name: &str, kind: &str| {
        // (z, y, x)
        let spec = json!({"dtype": kind, "shape": [-1, -1, -1]});
        json!([{"name": name, "type": "tensor", "tensor-spec": spec}]).to_string()
    };
    let made = jiff::Timestamp::from_millisecond(model.made).unwrap_or_default();
    let labels = if model.structures.len() > 255 {
        "uint16"
    } else {
        "uint8"
    };
    let mut described = json!({
        "run_id": run,
        "utc_time_created": made.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string(),
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
            described["model_id"] = json!(known.id);
            described["model_uuid"] = json!(known.id);
            described["artifact_path"] = json!(known.artifact_uri);
        }
        None => described["artifact_path"] = json!(WITHIN_RUN),
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_what_the_registry_takes() {
        assert_eq!(permitted("liver/v1.2"), "liver_v1_2");
        assert_eq!(permitted(" "), "ctseg");
    }
}
