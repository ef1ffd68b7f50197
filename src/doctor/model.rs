//! The configured model and dataset: present, complete, readable.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::Finding;
use super::memory::Needed;
use super::timeout::within;
use ctseg_base::Result;
use ctseg_base::text::words::counted;
use ctseg_core::dataset::Dataset;
use ctseg_core::inference::memory_estimate::{ComputeMode, needed_bytes, typical_volume};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::multi_part::Models;
use ctseg_core::model::multi_part::MultiPartModel;

const MODEL: &str = "model";
const DATASET: &str = "dataset";

/// Storage that takes longer to look up a file counts as hanging.
const STAT_TIMEOUT: Duration = Duration::from_secs(20);
/// Checksums of a few GB on slow storage.
const MODEL_TIMEOUT: Duration = Duration::from_secs(300);
/// Listing thousands of cases on slow storage.
const DATASET_TIMEOUT: Duration = Duration::from_secs(120);

struct ModelFacts {
    sha256: String,
    structures: usize,
    needed_bytes: u64,
}

/// Checks the model at `path` and estimates the memory it needs; `quick` reads no weights.
pub fn model(path: &Path, mode: ComputeMode, quick: bool) -> (Finding, Option<Needed>) {
    let shown = path.display();
    let own = path.to_path_buf();
    let is_there = move || MultiPartModel::is_at(&own) || own.join("model.toml").is_file();
    let Some(is_there) = within(STAT_TIMEOUT, is_there) else {
        return (hangs(MODEL, path, STAT_TIMEOUT), None);
    };
    if !is_there {
        let found = format!("none at {shown}");
        let advice = "needed for prediction: train one with 'ctseg fit', import one with 'ctseg import', or set --model or CTSEG_MODEL";
        return (Finding::note(MODEL, found).advised(advice), None);
    }
    if quick {
        let found = format!("{shown}, checksums not checked");
        return (Finding::ok(MODEL, found), None);
    }
    let own = path.to_path_buf();
    match within(MODEL_TIMEOUT, move || check_model(&own, mode)) {
        Some(Ok(facts)) => {
            let found = format!(
                "{shown}: complete, {}, SHA-256 {}…",
                counted(facts.structures, "structure"),
                facts.sha256.get(..12).unwrap_or_default()
            );
            let value = json!({
                "path": path.display().to_string(), "sha256": facts.sha256, "structures": facts.structures,
                "needed_bytes": facts.needed_bytes,
            });
            let [x, y, z] = typical_volume().shape;
            let needed = Needed {
                bytes: facts.needed_bytes,
                volume: format!("{x} × {y} × {z} voxels"),
            };
            (Finding::ok(MODEL, found).with(value), Some(needed))
        }
        Some(Err(error)) => {
            let advice = "copy or import it again from a complete source, train it again, or choose another with --model";
            (Finding::fault(MODEL, error.to_string(), advice), None)
        }
        None => (hangs(MODEL, path, MODEL_TIMEOUT), None),
    }
}

fn check_model(path: &Path, mode: ComputeMode) -> Result<ModelFacts> {
    let mut models = Models::open(&[path.to_path_buf()])?;
    models.choose(None)?; // also verifies the parts
    let bundles: Vec<Bundle> = match &models {
        Models::Ensemble(bundles) => bundles.clone(),
        Models::MultiPart(model, _) => {
            let parts = model.manifest.parts.iter();
            parts.map(|part| model.part(part)).collect::<Result<_>>()?
        }
    };
    let mut most = 0;
    for bundle in &bundles {
        most = most.max(needed_bytes(bundle, mode)?);
    }
    Ok(ModelFacts {
        sha256: models.sha256(),
        structures: models.structures()?.len(),
        needed_bytes: most,
    })
}

/// Checks the configured dataset; `quick` only checks that the path exists.
pub fn dataset(path: &Path, data_root: Option<&Path>, quick: bool) -> Finding {
    let shown = path.display();
    let advice = "expected a folder or descriptor: check --data, CTSEG_DATA, data in ctseg.toml, and that its storage is mounted";
    let own = path.to_path_buf();
    let Some(is_there) = within(STAT_TIMEOUT, move || own.exists()) else {
        return hangs(DATASET, path, STAT_TIMEOUT);
    };
    if !is_there {
        return Finding::fault(DATASET, format!("{shown} does not exist"), advice);
    }
    if quick {
        return Finding::ok(DATASET, format!("{shown}, content not checked"));
    }
    let (own, root) = (path.to_path_buf(), data_root.map(Path::to_path_buf));
    let opened = within(DATASET_TIMEOUT, move || {
        let dataset = Dataset::open_in(&own, root.as_deref())?;
        Ok::<_, ctseg_base::Error>((dataset.cases.len(), dataset.structures.len()))
    });
    match opened {
        Some(Ok((cases, structures))) => {
            let found = format!(
                "{shown}: {}, {}",
                counted(cases, "case"),
                counted(structures, "structure")
            );
            let facts = json!({"path": path.display().to_string(), "cases": cases, "structures": structures});
            Finding::ok(DATASET, found).with(facts)
        }
        Some(Err(error)) => Finding::fault(DATASET, error.to_string(), advice),
        None => hangs(DATASET, path, DATASET_TIMEOUT),
    }
}

fn hangs(check: &str, path: &Path, timeout: Duration) -> Finding {
    let found = format!(
        "{}: no response within {} s",
        path.display(),
        timeout.as_secs()
    );
    let advice =
        "its storage is slow or hangs: find its server with 'mount', or copy it to a local disk";
    Finding::fault(check, found, advice)
}
