//! What a converted dataset is called, and which folder it gets.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::names::safe_name;
use ctseg_base::atomic_file::refuse_file;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;

/// A layout that datasets can be written in.
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

    /// The first number that is given where none is asked for; those below are of published datasets.
    fn first_number(self) -> u16 {
        match self {
            Self::NnUnet => 500,
            Self::Msd => 11,
        }
    }

    /// Number and name in a folder's name, such as `Dataset123_Foo`.
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
    /// The name in the layout's own form: nnU-Net's converter of Decathlon datasets takes `Task07_Foo` apart at every
    /// `_`, and fails where there are two.
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
            "the name {name} holds '_', at which nnU-Net's converter of Decathlon datasets takes it apart; name it {own}"
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
                "'{text}' is no layout that can be written; expected nnunet or msd"
            ))),
        }
    }
}

/// Number and name of a dataset, and the folder that it is written into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub format: Format,
    /// 1 to 999.
    pub number: u16,
    pub name: String,
    pub folder: PathBuf,
}

/// Number or name as a user gives them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// `Foo`, `Dataset123_Foo` or `Task07_Foo`.
    pub name: Option<&'a str>,
    pub number: Option<u16>,
}

impl Target {
    /// The folder below `output`, or `output` itself where it is called `Dataset123_Foo` (`Task07_Foo`) already.
    ///
    /// What is not asked for is the source's; a number that it does not have either, is that of the folder of this
    /// name which is there already, else the first that is free.
    ///
    /// # Errors
    /// Names and numbers that contradict each other or are taken, and a folder that is the dataset's own.
    pub fn resolve(format: Format, output: &Path, asked: Asked, dataset: &Dataset) -> Result<Self> {
        let of_output = output.file_name().and_then(|name| name.to_str());
        let of_output = of_output.and_then(|name| format.parsed(name));
        let (number, name) = numbered(asked)?;
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
                    "-o {} names the dataset already, and --name or --id name another; leave these out, or give the folder above with -o",
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
                "{} is the dataset that is to be converted; choose another -o, --name or --id",
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
                    "{} has several datasets called {name}; say which is meant with --id",
                    output.display()
                )));
            }
            None => {
                let taken = |number: &u16| there.iter().any(|(other, _)| other == number);
                let free = (format.first_number()..=999).find(|number| !taken(number));
                kept.or(free).ok_or_else(|| {
                    Error::usage(format!(
                        "{} has no free number left; give one with --id",
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
                "{} has a dataset with the number {number} already, {other}; choose another with --id",
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

/// What is asked for, without a prefix.
fn numbered(asked: Asked) -> Result<(Option<u16>, Option<String>)> {
    if let Some(number) = asked.number.filter(|number| !(1..=999).contains(number)) {
        return Err(Error::usage(format!(
            "--id {number} is no number of a dataset; expected 1 to 999"
        )));
    }
    let Some(text) = asked.name else {
        return Ok((asked.number, None));
    };
    let parsed = Format::ALL.iter().find_map(|format| format.parsed(text));
    let (number, name) = match parsed {
        Some((number, name)) => (Some(number), name),
        None => (None, text.to_owned()),
    };
    if safe_name(&name) != name {
        return Err(Error::usage(format!(
            "--name {text} is no name of a folder; expected letters, digits, '_', '-' and '.', such as {}",
            safe_name(&name)
        )));
    }
    match (asked.number, number) {
        (Some(asked), Some(number)) if asked != number => Err(Error::usage(format!(
            "--id {asked} and --name {text} name two numbers; leave one out"
        ))),
        (asked, number) => Ok((asked.or(number), Some(name))),
    }
}

/// The source's number, if it has one, and name.
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
    refuse_file(output)?;
    if !output.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(output).map_err(Error::io(output, "list the folder"))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<(u16, String)> = names.filter_map(|name| format.parsed(&name)).collect();
    found.sort();
    Ok(found)
}
