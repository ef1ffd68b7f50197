//! `ctseg inspect` of multi-channel images and saved probabilities.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::volume_text::{header_text, histogram};
use crate::cli::print::Description;
use ctseg_base::Result;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::table;
use ctseg_core::outputs::probabilities::ProbabilityKind;
use ctseg_core::outputs::probabilities_reader::ProbabilityReader;
use ctseg_core::outputs::sidecar::{Sidecar, read_sidecar};
use ctseg_image::formats::VolumeHeader;
use ctseg_image::nifti::each_channel;

/// Statistics of the finite values of a channel; `None` if it has none.
#[derive(Debug, Default, Serialize)]
struct Channel {
    /// Name of the structure, for probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    lowest: Option<f64>,
    mean: Option<f64>,
    highest: Option<f64>,
    non_finite_voxels: u64,
    /// Voxels of 0.5 and more, for probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    voxels_above_half: Option<u64>,
    /// Voxels below, between and above the edges in HU, for images.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    histogram: Vec<u64>,
    #[serde(skip)]
    sum: f64,
    #[serde(skip)]
    finite: u64,
}

impl Channel {
    fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.non_finite_voxels += 1;
            return;
        }
        self.finite += 1;
        self.sum += value;
        self.lowest = Some(self.lowest.map_or(value, |lowest| lowest.min(value)));
        self.highest = Some(self.highest.map_or(value, |highest| highest.max(value)));
        if let Some(voxels) = &mut self.voxels_above_half {
            *voxels += u64::from(value >= 0.5);
        }
    }

    fn finish(&mut self) {
        self.mean = (self.finite > 0).then(|| self.sum / self.finite as f64);
    }
}

/// The image with `count` channels at `path`; only one channel is in memory at a time.
pub fn described(path: &Path, count: usize) -> Result<Description> {
    let sidecar = sidecar_of(path);
    let mut channels = empty_channels(count, sidecar.as_ref());
    let mut edges = Vec::new();
    let header = each_channel(path, |index, volume| {
        let channel = &mut channels[index];
        volume
            .data
            .iter()
            .for_each(|value| channel.add(f64::from(*value)));
        channel.finish();
        if sidecar.is_none() {
            (edges, channel.histogram) = histogram(volume.data.iter().copied());
        }
        Ok(())
    })?;
    let header = VolumeHeader::from(header);
    let text = header_text(path, &header, &format!(", {count} channels"));
    let mut json = json!({
        "kind": kind(sidecar.as_ref()), "path": path.display().to_string(), "shape": header.grid.shape,
        "spacing_mm": header.grid.spacing_mm(), "affine": header.grid.affine,
        "orientation": header.grid.orientation().to_string(), "datatype": header.voxel_type.name(),
        "warnings": header.warnings, "channels": channels,
    });
    if !edges.is_empty() {
        json["edges_hu"] = json!(edges);
    }
    let voxel_ml = header.grid.voxel_volume_ml();
    Ok(Description {
        text: text + &channel_table(&channels, Some(voxel_ml)),
        json,
    })
}

/// The probabilities of a .npy file written by `predict --save-probabilities=f16`.
pub fn array(path: &Path) -> Result<Description> {
    let sidecar = sidecar_of(path);
    let reader = ProbabilityReader::open_array(path)?;
    let [z, y, x] = reader.shape_zyx();
    let mut channels = empty_channels(reader.maps(), sidecar.as_ref());
    channels
        .iter_mut()
        .for_each(|channel| channel.voxels_above_half = Some(0));
    reader.each_slice(|map, _, codes| {
        let values = codes
            .iter()
            .map(|code| ProbabilityKind::F16.probability(*code));
        values.for_each(|value| channels[map].add(value));
    })?;
    channels.iter_mut().for_each(Channel::finish);
    let spacing = sidecar.as_ref().map(|sidecar| sidecar.spacing_mm);
    let text = format!(
        "{}\n  shape        {:?} voxels (x, y, z), {} channels\n  voxels       float16\n",
        path.shown(),
        [x, y, z],
        channels.len()
    );
    let voxel_ml = spacing.map(|mm| mm.iter().product::<f64>() / 1000.0);
    let json = json!({
        "kind": "probabilities", "path": path.display().to_string(), "shape": [x, y, z], "spacing_mm": spacing, "datatype": "float16",
        "channels": channels,
    });
    Ok(Description {
        text: text + &channel_table(&channels, voxel_ml),
        json,
    })
}

/// Whether the file has probabilities of a prediction.
pub fn are_probabilities(path: &Path) -> bool {
    sidecar_of(path).is_some()
}

fn kind(sidecar: Option<&Sidecar>) -> &'static str {
    match sidecar {
        Some(_) => "probabilities",
        None => "channels",
    }
}

/// What is known of the label map beside which `path` has the probabilities; none of other files.
fn sidecar_of(path: &Path) -> Option<Sidecar> {
    let name = path.file_name()?.to_str()?;
    let (case, _) = name.rsplit_once("_probabilities.")?;
    let sidecar = read_sidecar(&path.with_file_name(format!("{case}.nii.gz")));
    sidecar.filter(|sidecar| !sidecar.probability_labels.is_empty())
}

/// Channels without statistics yet.
fn empty_channels(count: usize, sidecar: Option<&Sidecar>) -> Vec<Channel> {
    let name = |index: usize| {
        let sidecar = sidecar?;
        let label = sidecar.probability_labels.get(index)?;
        let mut structures = sidecar.structures.iter();
        structures
            .find(|(_, value)| *value == label)
            .map(|(name, _)| name.clone())
    };
    (0..count)
        .map(|index| Channel {
            name: name(index),
            voxels_above_half: sidecar.is_some().then_some(0),
            ..Channel::default()
        })
        .collect()
}

fn channel_table(channels: &[Channel], voxel_ml: Option<f64>) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.4}"));
    let probabilities = channels
        .iter()
        .any(|channel| channel.voxels_above_half.is_some());
    let last = match (probabilities, voxel_ml) {
        (true, Some(_)) => "mL ≥ 0.5",
        (true, None) => "voxels ≥ 0.5",
        (false, _) => "NaN or infinite",
    };
    let rows: Vec<Vec<String>> = channels
        .iter()
        .enumerate()
        .map(|(index, channel)| {
            let above = channel.voxels_above_half;
            vec![
                channel
                    .name
                    .clone()
                    .unwrap_or_else(|| format!("channel {index}")),
                number(channel.lowest),
                number(channel.mean),
                number(channel.highest),
                match (above, voxel_ml) {
                    (Some(voxels), Some(ml)) => format!("{:.2}", voxels as f64 * ml),
                    (Some(voxels), None) => voxels.to_string(),
                    (None, _) => channel.non_finite_voxels.to_string(),
                },
            ]
        })
        .collect();
    table(&["channel", "lowest", "mean", "highest", last], &rows)
}
