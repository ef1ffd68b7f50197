//! `ctseg inspect --fingerprint`: dataset statistics.

use serde_json::json;

use super::print::Description;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::table;
use ctseg_base::text::words::{counted, listed};
use ctseg_base::{Error, Result};
use ctseg_core::dataset::fingerprint::Fingerprint;

pub fn described(fingerprint: &Fingerprint) -> Result<Description> {
    let mm = |values: [f64; 3]| values.map(|v| format!("{v:.2}")).to_vec();
    let row = |name: &str, values: [f64; 3]| [vec![name.to_owned()], mm(values)].concat();
    let mut text = format!(
        "{}: {} read, {} unreadable\n",
        fingerprint.dataset.shown(),
        counted(fingerprint.cases.len(), "case"),
        fingerprint.unreadable.len()
    );
    text += &excluded(fingerprint);
    text += &table(
        &["mm", "x", "y", "z"],
        &[
            row("median spacing", fingerprint.median_spacing_mm),
            row("median extent", fingerprint.median_extent_mm),
            row("median structure extent", fingerprint.median_foreground_mm),
            row(
                "95th percentile of structure extent",
                fingerprint.large_foreground_mm,
            ),
        ],
    );
    text += &format!(
        "bounding box of all structures: {:.1} % of the scan (median)\n",
        100.0 * fingerprint.median_foreground_share
    );
    if let Some(hu) = &fingerprint.foreground_hu {
        text += &format!(
            "HU inside the structures: mean {:.1}, SD {:.1}, median {:.0}, 0.5th percentile {:.0}, 99.5th percentile {:.0}, range {:.0} to {:.0}\n",
            hu.mean, hu.sd, hu.median, hu.percentile_00_5, hu.percentile_99_5, hu.min, hu.max
        );
    }
    let structures: Vec<Vec<String>> = fingerprint
        .structures
        .iter()
        .map(|(name, facts)| {
            vec![
                name.clone(),
                facts.cases.to_string(),
                format!("{:.1}", facts.median_ml),
            ]
        })
        .collect();
    text += &table(&["structure", "cases", "median mL"], &structures);
    let value = serde_json::to_value(fingerprint)
        .map_err(|error| Error::invalid(format!("cannot write the fingerprint: {error}")))?;
    let json = json!({"kind": "fingerprint", "fingerprint": value});
    Ok(Description { text, json })
}

/// Cases left out of the statistics; a warning has given the reason for each.
fn excluded(fingerprint: &Fingerprint) -> String {
    let mut text = String::new();
    let unread = fingerprint.unreadable.iter();
    let unread: Vec<&str> = unread.map(|(case, _)| case.as_str()).collect();
    if !unread.is_empty() {
        text += &format!("  unreadable  {}\n", listed(&unread));
    }
    let not_hu = fingerprint.not_hu.iter();
    let not_hu: Vec<&str> = not_hu.map(|(case, _)| case.as_str()).collect();
    if !not_hu.is_empty() {
        text += &format!(
            "  not in HU   {}: excluded from the HU statistics\n",
            not_hu.join(", ").shown()
        );
    }
    text
}
