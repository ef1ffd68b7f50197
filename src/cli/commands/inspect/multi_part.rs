//! `ctseg inspect` of a multi-part model.

use std::path::Path;

use serde_json::json;

use crate::cli::print::Description;
use ctseg_base::Result;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::table;
use ctseg_base::text::words::{counted, listed};
use ctseg_core::model::multi_part::{MultiPartModel, OTHERS, When};
use ctseg_image::labels::postprocess::Step;

/// The model at `path`; its parts are verified.
pub fn described(path: &Path) -> Result<Description> {
    let model = MultiPartModel::open(path)?;
    let opened = model.open_parts(None)?;
    drop(opened);
    let manifest = &model.manifest;
    let mut text = format!(
        "model {} of {}: {} (ctseg {}), SHA-256 {}\n",
        path.shown(),
        counted(manifest.parts.len(), "part"),
        manifest.name.shown(),
        manifest.ctseg_version.shown(),
        model.sha256()
    );
    let parts_with = |label: u16| {
        let parts = manifest.parts.iter();
        let those = parts.filter(|part| part.labels.values().any(|own| *own == label));
        let names: Vec<&str> = those.map(|part| part.folder.as_str()).collect();
        names.join(", ")
    };
    let rows: Vec<Vec<String>> = model
        .structures()
        .iter()
        .map(|s| vec![s.name.clone(), s.value.to_string(), parts_with(s.value)])
        .collect();
    text += &table(&["structure", "label", "part"], &rows);
    if let Some(rough) = &manifest.rough {
        let when = match rough.when {
            When::Always => "for every volume",
            When::Chosen => "with --structures",
        };
        let by = rough.stands_for.get(OTHERS);
        let by = by.map_or("the structures".to_owned(), |names| listed(names));
        text += &format!(
            "rough model '{}' locates {by} {when}, with a margin of {} mm\n",
            rough.folder.shown(),
            rough.margin_mm
        );
    }
    for (name, steps) in &manifest.postprocessing {
        let steps: Vec<String> = steps.iter().map(Step::to_string).collect();
        text += &format!("postprocessing of {}: {}\n", name.shown(), steps.join(", "));
    }
    let json = json!({
        "kind": "model of several parts", "path": path, "sha256": model.sha256(), "manifest": manifest,
    });
    Ok(Description { text, json })
}
