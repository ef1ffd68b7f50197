//! Volume and intensity of every structure as in TotalSegmentator's `statistics.json` (`get_basic_statistics` in
//! `statistics.py` of TotalSegmentator 2.18).

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::structures::{StructureStatistics, statistics_of};
use crate::space::{Grid, LabelMap, Volume};
use ctseg_base::{Error, Result};

/// A structure within this many layers of a face of the volume counts as cut off.
const BORDER: usize = 3;

/// How the statistics are computed; TotalSegmentator's defaults by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableOptions {
    /// Median instead of mean intensity (`--stats_aggregation median`).
    pub median: bool,
    /// Include structures cut off at the border of the volume, which are 0 otherwise (`--stats_include_incomplete`).
    pub incomplete: bool,
    /// Scale intensities to 0 to 1 over the volume's range (`statistics_normalized_intensities`).
    pub normalized: bool,
}

/// Words for [`TableOptions`] on the command line.
const WORDS: [&str; 4] = ["mean", "median", "incomplete", "normalized"];

impl FromStr for TableOptions {
    type Err = Error;

    /// Reads words such as `median,incomplete`.
    fn from_str(text: &str) -> Result<Self> {
        let mut options = Self::default();
        for word in text.split(',').map(str::trim) {
            match word {
                "" | "mean" => options.median = false,
                "median" => options.median = true,
                "incomplete" => options.incomplete = true,
                "normalized" | "normalised" => options.normalized = true,
                other => {
                    return Err(Error::usage(format!(
                        "unknown statistics option '{other}'; expected any of {}",
                        WORDS.join(",")
                    )));
                }
            }
        }
        Ok(options)
    }
}

impl fmt::Display for TableOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [mean, median, incomplete, normalized] = WORDS;
        write!(f, "{}", if self.median { median } else { mean })?;
        for (is_set, word) in [(self.incomplete, incomplete), (self.normalized, normalized)] {
            if is_set {
                write!(f, ",{word}")?;
            }
        }
        Ok(())
    }
}

/// One structure's entry.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VolumeAndIntensity {
    /// In mm³.
    pub volume: f64,
    /// In HU, or scaled to the volume's range; to five decimals.
    pub intensity: f64,
}

const ZERO: VolumeAndIntensity = VolumeAndIntensity {
    volume: 0.0,
    intensity: 0.0,
};

/// Entries by structure, in the order of the labels.
#[derive(Debug, Clone, PartialEq)]
pub struct StatisticsJson(pub Vec<(String, VolumeAndIntensity)>);

impl Serialize for StatisticsJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, entry) in &self.0 {
            map.serialize_entry(name, entry)?;
        }
        map.end()
    }
}

impl StatisticsJson {
    /// TotalSegmentator's entries for these structures (label values with names); `voxel_mm3` is
    /// [`voxel_mm3`](crate::nifti::NiftiHeader::voxel_mm3) of the image's header.
    ///
    /// As there, intensities are first truncated to 16-bit integers; values out of range saturate.
    pub fn measured(
        structures: &[(u16, &str)],
        map: &LabelMap,
        image: &Volume,
        voxel_mm3: f64,
        options: TableOptions,
    ) -> Self {
        let labels: Vec<u16> = structures.iter().map(|(label, _)| *label).collect();
        let found = statistics_of(&labels, map, image, truncated);
        let range = options.normalized.then(|| range(image));
        let entries = structures.iter().zip(&found).map(|((_, name), found)| {
            let entry = match found.voxels > 0 && (options.incomplete || !is_cut(found, &map.grid))
            {
                true => entry(found, voxel_mm3, options.median, range),
                false => ZERO,
            };
            ((*name).to_owned(), entry)
        });
        Self(entries.collect())
    }

    /// The file's content, formatted as by Python's `json.dump(…, indent=4)`.
    ///
    /// # Errors
    /// Those of the serialiser; none is expected.
    pub fn text(&self) -> Result<String> {
        let mut bytes = Vec::new();
        let layout = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, layout);
        let failed =
            |problem: String| Error::invalid(format!("cannot write statistics: {problem}"));
        self.serialize(&mut serializer)
            .map_err(|error| failed(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| failed(error.to_string()))
    }
}

fn entry(
    found: &StructureStatistics,
    voxel_mm3: f64,
    median: bool,
    range: Option<[f64; 2]>,
) -> VolumeAndIntensity {
    let hu = if median {
        found.median_hu
    } else {
        found.mean_hu
    };
    let hu = hu.unwrap_or_default();
    let intensity = match range {
        // For a constant volume Python divides 0 by 0; here the intensity is 0.
        Some([low, high]) if high > low => (hu - low) / (high - low),
        Some(_) => 0.0,
        None => hu,
    };
    VolumeAndIntensity {
        volume: found.voxels as f64 * voxel_mm3,
        intensity: (intensity * 1e5).round_ties_even() / 1e5,
    }
}

/// As NumPy's `astype(int16)`, but saturating.
fn truncated(hu: f32) -> f32 {
    f32::from(hu as i16)
}

/// Whether a structure is cut off: it reaches the outermost layers.
fn is_cut(found: &StructureStatistics, grid: &Grid) -> bool {
    found.bounds.is_some_and(|bounds| {
        (0..3).any(|axis| {
            bounds.start[axis] < BORDER
                || bounds.end[axis] > grid.shape[axis].saturating_sub(BORDER)
        })
    })
}

/// The minimum and maximum of all intensities.
fn range(image: &Volume) -> [f64; 2] {
    let all = image.data.as_slice_memory_order().unwrap_or_default();
    let ends = |[low, high]: [i16; 2], hu: i16| [low.min(hu), high.max(hu)];
    let none = || [i16::MAX, i16::MIN];
    let [low, high] = all
        .par_iter()
        .fold(none, |ends_so_far, hu| ends(ends_so_far, *hu as i16))
        .reduce(none, |a, b| [a[0].min(b[0]), a[1].max(b[1])]);
    [f64::from(low), f64::from(high)]
}
