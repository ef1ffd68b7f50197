//! Images of several channels: their names and files. ctseg itself works on one, the CT; converting a dataset keeps
//! all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::discovered::Accept;
use super::path_pattern::joined;
use super::{Case, Dataset, Layout};
use ctseg_base::text::file::read_text;
use ctseg_base::text::os_text::{from_text, to_text};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_image::formats::case_name;

/// The channel name of a dataset that names no channels.
const CT: &str = "CT";

/// The channels of a dataset's images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channels {
    /// Names in order, such as CT.
    pub names: Vec<String>,
    /// For each case the files of its image: one with all channels, or one per channel.
    pub files: Vec<Vec<PathBuf>>,
    /// From `dataset.json`: where the data come from, and their version.
    pub reference: Option<String>,
    pub release: Option<String>,
}

/// The keys of `dataset.json` about channels and origin.
#[derive(Debug, Default, Deserialize)]
struct ChannelsJson {
    channel_names: Option<Map<String, Value>>,
    modality: Option<Map<String, Value>>,
    dataset: Option<BTreeMap<String, Listed>>,
    reference: Option<Value>,
    release: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    images: Vec<String>,
}

impl Dataset {
    /// [`Dataset::open_in`] that also accepts images of several channels. `named` overrides the channel names of
    /// `dataset.json`.
    ///
    /// # Errors
    /// As [`Dataset::open_in`]; a number of names other than the number of channels.
    pub fn open_channels(
        path: &Path,
        data_root: Option<&Path>,
        named: &[String],
    ) -> Result<(Self, Channels)> {
        let dataset = Self::open_accepting(path, data_root, Accept::AnyChannels)?;
        let json = dataset.root.join("dataset.json");
        let content = match dataset.layout {
            Layout::NnUnet | Layout::Decathlon => read(&json)?,
            _ => ChannelsJson::default(),
        };
        let own = content.channel_names.as_ref().or(content.modality.as_ref());
        let names = match own {
            Some(own) if !own.is_empty() => names_in(&json, own)?,
            _ if named.is_empty() => vec![CT.to_owned()],
            _ => named.to_vec(),
        };
        if !named.is_empty() && named.len() != names.len() {
            return Err(Error::usage(format!(
                "{} given for the {} ({}) of {}; give one name per channel",
                counted(named.len(), "channel name"),
                counted(names.len(), "channel"),
                names.join(", "),
                json.display()
            )));
        }
        let names = if named.is_empty() {
            names
        } else {
            named.to_vec()
        };
        let files = dataset
            .cases
            .iter()
            .map(|case| files_of(case, &dataset, &content, names.len()))
            .collect();
        let text = |value: Option<Value>| Some(value?.as_str()?.to_owned());
        let channels = Channels {
            names,
            files,
            reference: text(content.reference),
            release: text(content.release),
        };
        Ok((dataset, channels))
    }
}

fn read(json: &Path) -> Result<ChannelsJson> {
    let text = read_text(json).map_err(Error::io(json, "read"))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::file(json, format!("not a dataset.json: {error}")))
}

/// The names of `{"0": "CT", "1": "PET"}` in order.
fn names_in(json: &Path, table: &Map<String, Value>) -> Result<Vec<String>> {
    let names = (0..table.len()).map(|index| {
        let name = table.get(&index.to_string()).and_then(Value::as_str);
        name.map(str::to_owned).ok_or_else(|| {
            Error::file(
                json,
                format!(
                    "channels are {}; expected names numbered from \"0\", such as {{\"0\": \"CT\"}}",
                    Value::Object(table.clone())
                ),
            )
        })
    });
    names.collect()
}

/// The files of a case's image.
fn files_of(
    case: &Case,
    dataset: &Dataset,
    content: &ChannelsJson,
    channels: usize,
) -> Vec<PathBuf> {
    let listed = content.dataset.as_ref().and_then(|all| all.get(&case.id));
    if let Some(listed) = listed {
        return listed
            .images
            .iter()
            .map(|image| joined(&dataset.root, image))
            .collect();
    }
    let first = format!("{}_0000", case.id);
    // In other layouts a file named `_0000` holds all channels.
    let is_numbered = dataset.layout == Layout::NnUnet || dataset.layout == Layout::Descriptor;
    if channels == 1 || !is_numbered || case_name(&case.image).as_ref() != Some(&first) {
        return vec![case.image.clone()];
    }
    let name = to_text(case.image.file_name().unwrap_or_default());
    let ending = &name[first.len()..];
    (0..channels)
        .map(|channel| {
            let name = format!("{}_{channel:04}{ending}", case.id);
            case.image.with_file_name(from_text(&name))
        })
        .collect()
}
