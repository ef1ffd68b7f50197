//! The configured model and dataset: there, whole, readable.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::Finding;
use super::memory::Needed;
use super::patience::within;
use ctseg_base::Result;
use ctseg_base::text::words::counted;
use ctseg_core::dataset::Dataset;
use ctseg_core::inference::memory_estimate::{Way, needed_bytes, ordinary_volume};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::multi_part::Models;
use ctseg_core::model::multi_part::PartedModel;

const MODEL: &str = "model";
const DATASET: &str = "dataset";

/// Storage that takes longer to tell whether a file is there hangs.
const STAT_PATIENCE: Duration = Duration::from_secs(20);
/// Checksums of a few GB on slow storage.
const MODEL_PATIENCE: Duration = Duration::from_secs(300);
/// Listing thousands of cases on slow storage.
const DATASET_PATIENCE: Duration = Duration::from_secs(120);

/// A model that was looked at.
struct Looked {
    sha256: String,
    structures: usize,
    needed_bytes: u64,
}

/// The model at `path`, and what it takes; `quick` reads no weights.
pub fn model(path: &Path, way: Way, quick: bool) -> (Finding, Option<Needed>) {
    let shown = path.display();
    let own = path.to_path_buf();
    let is_there = move || PartedModel::is_at(&own) || own.join("model.toml").is_file();
    let Some(is_there) = within(STAT_PATIENCE, is_there) else {
        return (hangs(MODEL, path, STAT_PATIENCE), None);
    };
    if !is_there {
        let found = format!("none at {shown}");
        let advice = "to predict: 'ctseg fit' makes one there, 'ctseg import' brings one, --model or CTSEG_MODEL names another";
        return (Finding::note(MODEL, found).advised(advice), None);
    }
    if quick {
        let found = format!("{shown}, its checksums not looked at");
        return (Finding::ok(MODEL, found), None);
    }
    let own = path.to_path_buf();
    match within(MODEL_PATIENCE, move || looked_at(&own, way)) {
        Some(Ok(looked)) => {
            let found = format!(
                "{shown}: whole, {}, SHA-256 {}…",
                counted(looked.structures, "structure"),
                looked.sha256.get(..12).unwrap_or_default()
            );
            let facts = json!({
                "path": path.display().to_string(), "sha256": looked.sha256, "structures": looked.structures,
                "needed_bytes": looked.needed_bytes,
            });
            let [x, y, z] = ordinary_volume().shape;
            let needed = Needed {
                bytes: looked.needed_bytes,
                volume: format!("{x} × {y} × {z} voxels"),
            };
            (Finding::ok(MODEL, found).with(facts), Some(needed))
        }
        Some(Err(error)) => {
            let advice = "copy or import it again from where it is whole, train it again, or name another by --model";
            (Finding::fault(MODEL, error.to_string(), advice), None)
        }
        None => (hangs(MODEL, path, MODEL_PATIENCE), None),
    }
}

fn looked_at(path: &Path, way: Way) -> Result<Looked> {
    let mut models = Models::open(&[path.to_path_buf()])?;
    models.choose(None)?; // which verifies parts, too
    let bundles: Vec<Bundle> = match &models {
        Models::Averaged(bundles) => bundles.clone(),
        Models::Parted(model, _) => {
            let parts = model.manifest.parts.iter();
            parts.map(|part| model.part(part)).collect::<Result<_>>()?
        }
    };
    let mut most = 0;
    for bundle in &bundles {
        most = most.max(needed_bytes(bundle, way)?);
    }
    Ok(Looked {
        sha256: models.sha256(),
        structures: models.structures()?.len(),
        needed_bytes: most,
    })
}

/// The dataset that is named; `quick` looks only whether something is there.
pub fn dataset(path: &Path, data_root: Option<&Path>, quick: bool) -> Finding {
    let shown = path.display();
    let advice = "expected a folder or descriptor: --data, CTSEG_DATA, data in ctseg.toml; is its storage mounted here?";
    let own = path.to_path_buf();
    let Some(is_there) = within(STAT_PATIENCE, move || own.exists()) else {
        return hangs(DATASET, path, STAT_PATIENCE);
    };
    if !is_there {
        return Finding::fault(DATASET, format!("{shown} is not there"), advice);
    }
    if quick {
        return Finding::ok(DATASET, format!("{shown}, not looked into"));
    }
    let (own, root) = (path.to_path_buf(), data_root.map(Path::to_path_buf));
    let opened = within(DATASET_PATIENCE, move || {
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
        None => hangs(DATASET, path, DATASET_PATIENCE),
    }
}

fn hangs(check: &str, path: &Path, patience: Duration) -> Finding {
    let found = format!(
        "{}: no answer within {} s",
        path.display(),
        patience.as_secs()
    );
    let advice =
        "its storage is slow or hangs: see 'mount' for its server, or copy it to a local disk";
    Finding::fault(check, found, advice)
}
