//! Name, number and folder of a converted dataset.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::names::safe_name;
use ctseg_base::atomic_file::ensure_not_file;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;

/// An output layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// nnU-Net v2 raw, as nnU-Net 2.8.1 reads it.
    NnUnet,
    /// Medical Segmentation Decathlon.
    Msd,
}

impl Format {
    const ALL: [Self; 2] = [Self::NnUnet, Self::Msd];

    fn prefix(self) -> &'static str {
        match self {
            Self::NnUnet => "Dataset",
            Self::Msd => "Task",
        }
    }

    /// The first number assigned by default; lower ones belong to published datasets.
    fn first_number(self) -> u16 {
        match self {
            Self::NnUnet => 500,
            Self::Msd => 11,
        }
    }

    /// Parses number and name from a folder name such as `Dataset123_Foo`.
    fn parsed(self, text: &str) -> Option<(u16, String)> {
        let (number, name) = text.strip_prefix(self.prefix())?.split_once('_')?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let fits = match self {
            Self::NnUnet => number.len() == 3,
            Self::Msd => matches!(number.len(), 2 | 3),
        };
        let number = number.parse().ok().filter(|number| *number > 0)?;
        (digits && fits && !name.is_empty()).then(|| (number, name.to_owned()))
    }
}

impl Format {
    /// The name as the layout allows it: nnU-Net's converter for Decathlon datasets splits `Task07_Foo` at every `_`
    /// and fails on a second one.
    fn name_of(self, name: &str) -> String {
        let parts: Vec<&str> = name.split('_').filter(|part| !part.is_empty()).collect();
        match self {
            Self::NnUnet => name.to_owned(),
            Self::Msd => parts.join("-"),
        }
    }

    fn check_name(self, name: &str) -> Result<()> {
        let own = self.name_of(name);
        if own == name {
            return Ok(());
        }
        Err(Error::usage(format!(
            "the name {name} contains '_', which nnU-Net's converter for Decathlon datasets does not accept; use {own}"
        )))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NnUnet => "nnU-Net v2 raw",
            Self::Msd => "Medical Segmentation Decathlon",
        })
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "nnunet" => Ok(Self::NnUnet),
            "msd" => Ok(Self::Msd),
            _ => Err(Error::usage(format!(
                "unknown output layout '{text}'; expected nnunet or msd"
            ))),
        }
    }
}

/// Number, name and output folder of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub format: Format,
    /// 1 to 999.
    pub number: u16,
    pub name: String,
    pub folder: PathBuf,
}

/// Number and name as given by the user.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requested<'a> {
    /// `Foo`, `Dataset123_Foo` or `Task07_Foo`.
    pub name: Option<&'a str>,
    pub number: Option<u16>,
}

impl Target {
    /// The folder below `output`, or `output` itself if it is named `Dataset123_Foo` (`Task07_Foo`).
    ///
    /// Name and number default to the source's. Without a number, that of an existing folder of this name is used,
    /// otherwise the first free one.
    ///
    /// # Errors
    /// Contradicting or occupied names and numbers, and a folder that is the source dataset itself.
    pub fn resolve(
        format: Format,
        output: &Path,
        requested: Requested,
        dataset: &Dataset,
    ) -> Result<Self> {
        let of_output = output.file_name().and_then(|name| name.to_str());
        let of_output = of_output.and_then(|name| format.parsed(name));
        let (number, name) = number_and_name(requested)?;
        let given = [
            name.as_deref(),
            of_output.as_ref().map(|(_, name)| name.as_str()),
        ];
        for given in given.into_iter().flatten() {
            format.check_name(given)?;
        }
        let target = if let Some((own_number, own_name)) = of_output {
            let other = number.is_some_and(|number| number != own_number);
            if other || name.as_ref().is_some_and(|name| *name != own_name) {
                return Err(Error::usage(format!(
                    "-o {} already names the dataset, and --name or --id names another; omit them, or give the parent folder with -o",
                    output.display()
                )));
            }
            Self {
                format,
                number: own_number,
                name: own_name,
                folder: output.to_path_buf(),
            }
        } else {
            Self::below(format, output, number, name, dataset)?
        };
        let same = |path: &Path| path.canonicalize().ok();
        if same(&target.folder).is_some_and(|folder| Some(folder) == same(&dataset.root)) {
            return Err(Error::usage(format!(
                "{} is the dataset to be converted; choose another -o, --name or --id",
                target.folder.display()
            )));
        }
        Ok(target)
    }

    fn below(
        format: Format,
        output: &Path,
        number: Option<u16>,
        name: Option<String>,
        dataset: &Dataset,
    ) -> Result<Self> {
        let (source_number, source_name) = of_source(dataset);
        let name = name.unwrap_or_else(|| format.name_of(&source_name));
        let there = numbers_in(format, output)?;
        let mut of_name = there.iter().filter(|(_, other)| *other == name);
        let kept = of_name.next().map(|(number, _)| *number);
        let number = match number.or(source_number) {
            Some(number) => number,
            None if of_name.next().is_some() => {
                return Err(Error::usage(format!(
                    "{} contains several datasets named {name}; choose one with --id",
                    output.display()
                )));
            }
            None => {
                let taken = |number: &u16| there.iter().any(|(other, _)| other == number);
                let free = (format.first_number()..=999).find(|number| !taken(number));
                kept.or(free).ok_or_else(|| {
                    Error::usage(format!(
                        "{} has no free dataset number left; give one with --id",
                        output.display()
                    ))
                })?
            }
        };
        let other = there
            .iter()
            .find(|(n, other)| *n == number && *other != name);
        if let Some((_, other)) = other {
            return Err(Error::usage(format!(
                "{} already contains a dataset with number {number}, {other}; choose another with --id",
                output.display()
            )));
        }
        let mut target = Self {
            format,
            number,
            name,
            folder: PathBuf::new(),
        };
        target.folder = output.join(target.folder_name());
        Ok(target)
    }

    /// `Dataset123_Foo`, `Task07_Foo`.
    pub fn folder_name(&self) -> String {
        let (number, name) = (self.number, &self.name);
        match self.format {
            Format::NnUnet => format!("Dataset{number:03}_{name}"),
            Format::Msd => format!("Task{number:02}_{name}"),
        }
    }
}

/// The requested number and the name without a prefix.
fn number_and_name(requested: Requested) -> Result<(Option<u16>, Option<String>)> {
    if let Some(number) = requested
        .number
        .filter(|number| !(1..=999).contains(number))
    {
        return Err(Error::usage(format!(
            "--id {number} is not a valid dataset number; expected 1 to 999"
        )));
    }
    let Some(text) = requested.name else {
        return Ok((requested.number, None));
    };
    let parsed = Format::ALL.iter().find_map(|format| format.parsed(text));
    let (number, name) = match parsed {
        Some((number, name)) => (Some(number), name),
        None => (None, text.to_owned()),
    };
    if safe_name(&name) != name {
        return Err(Error::usage(format!(
            "--name {text} is not a valid folder name; expected letters, digits, '_', '-' and '.', such as {}",
            safe_name(&name)
        )));
    }
    match (requested.number, number) {
        (Some(id), Some(number)) if id != number => Err(Error::usage(format!(
            "--id {id} and --name {text} give different numbers; omit one"
        ))),
        (id, number) => Ok((id.or(number), Some(name))),
    }
}

/// The source dataset's number, if any, and name.
fn of_source(dataset: &Dataset) -> (Option<u16>, String) {
    let root = dataset.root.canonicalize();
    let root = root.unwrap_or_else(|_| dataset.root.clone());
    let folder = root.file_name().unwrap_or_default().to_string_lossy();
    let of = |text: &str| Format::ALL.iter().find_map(|format| format.parsed(text));
    match (of(&dataset.name), of(&folder)) {
        (Some((number, name)), _) => (Some(number), safe_name(&name)),
        (None, Some((number, _))) => (Some(number), safe_name(&dataset.name)),
        (None, None) => (None, safe_name(&dataset.name)),
    }
}

/// Numbers and names of the datasets in a folder.
fn numbers_in(format: Format, output: &Path) -> Result<Vec<(u16, String)>> {
    ensure_not_file(output)?;
    if !output.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(output).map_err(Error::io(output, "list the folder"))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<(u16, String)> = names.filter_map(|name| format.parsed(&name)).collect();
    found.sort();
    Ok(found)
}
