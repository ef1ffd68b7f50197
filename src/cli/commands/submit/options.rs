//! What jobs ask of the cluster, as options of sbatch.

use super::plan::JobArgs;
use crate::cli::env::GPUS;
use crate::cli::settings::Settings;
use crate::slurm::script::Work;
use crate::slurm::span::written;
use ctseg_base::{Error, Result};
use ctseg_engine::device::DeviceChoice;

/// Names and values; those that take none have an empty one.
type Options = Vec<(String, String)>;

impl JobArgs {
    /// Options for a job that does `work`; evaluations are short, and get those of every job alone.
    ///
    /// # Errors
    /// Some that a job script cannot hold.
    pub fn options(&self, work: Work) -> Result<Options> {
        let gpus = match self.gpus.as_deref() {
            None | Some("0") => None,
            Some(gpus) => Some(format!("gpu:{gpus}")),
        };
        let of_all = [
            ("partition", self.partition.clone()),
            ("account", self.account.clone()),
            ("qos", self.qos.clone()),
        ];
        let of_long = [
            ("time", self.time.map(written)),
            ("mem", self.mem.clone()),
            ("cpus-per-task", self.cpus.map(|n| n.to_string())),
            ("gres", gpus),
        ];
        let named = of_all
            .into_iter()
            .chain(of_long.into_iter().filter(|_| work != Work::Evaluate));
        let mut options: Options = named
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect();
        for text in &self.sbatch_arg {
            let option = text.strip_prefix("--");
            let option = option.map(|rest| rest.split_once('=').unwrap_or((rest, "")));
            let (name, value) = option.filter(|(name, _)| is_name(name)).ok_or_else(|| {
                Error::usage(format!(
                    "--sbatch-arg {text:?} is no long option; expected something like --sbatch-arg=--constraint=avx512"
                ))
            })?;
            options.retain(|(own, _)| own != name);
            options.push((name.to_owned(), value.to_owned()));
        }
        let cannot_stand = ['\n', '\r', '"', '\'', '\\', '#'];
        if let Some((name, _)) = options.iter().find(|(_, v)| v.contains(cannot_stand)) {
            return Err(Error::usage(format!(
                "--{name}: quotes, backslashes, # and line ends cannot stand in a job script's options"
            )));
        }
        let is_single = matches!(work, Work::Fit | Work::Evaluate);
        if is_single && options.iter().any(|(name, _)| name == "array") {
            return Err(Error::usage(
                "--sbatch-arg=--array: a training is one job; predict shares volumes among tasks (--tasks), fit-folds folds",
            ));
        }
        Ok(options)
    }

    /// The GPUs that a training takes, each by a process of its own, as the value of [`GPUS`]: a variable reaches jobs
    /// that go on with their run, too. None where one process does, or where it shall train `alone`.
    pub fn trained_on(&self, alone: bool, settings: &Settings) -> Result<Option<String>> {
        let asked = self.gpus.as_deref().unwrap_or_default();
        let count = asked.rsplit(':').next().unwrap_or_default();
        let count = count.parse::<usize>().unwrap_or(1);
        // One that this command's own environment holds reaches the job, too.
        if alone || (count < 2 && std::env::var_os(GPUS).is_none()) {
            return Ok(None);
        }
        if self.gpus.is_none() || count == 0 {
            return Err(Error::usage(format!(
                "{GPUS} is set, and jobs take it over: name as many by --gpus, which reserves them, or unset it"
            )));
        }
        match settings.device {
            DeviceChoice::Auto | DeviceChoice::LibTorchCuda(_) => Ok(Some(count.to_string())),
            device => Err(Error::usage(format!(
                "--gpus {asked}: the device is {device}; several GPUs train together with --device libtorch:cuda"
            ))),
        }
    }
}

/// Whether sbatch may have a long option of this name.
fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.bytes().all(is_part)
}

/// Adds an option where none of its name is there.
pub fn by_default(options: &mut Options, name: &str, value: String) {
    if options.iter().all(|(own, _)| own != name) {
        options.push((name.to_owned(), value));
    }
}

/// Adds an array of all tasks from `first` to `last`, where `--sbatch-arg` names none.
///
/// # Errors
/// It names others than these.
pub fn with_tasks(options: &mut Options, (first, last): (u32, u32)) -> Result<()> {
    by_default(options, "array", format!("{first}-{last}"));
    let named = options.iter().find(|(name, _)| name == "array");
    let named = named.map_or("", |(_, value)| value);
    match range_of(named) {
        Some((least, most)) if first <= least && most <= last => Ok(()),
        _ => Err(Error::usage(format!(
            "--sbatch-arg=--array={named}: expected some of the tasks {first} to {last}; of predictions --tasks says how \
             many there are in all, of folds the recipe"
        ))),
    }
}

/// Least and greatest number of tasks such as `1-8`, `3,7` or `0-15:5%2`.
fn range_of(array: &str) -> Option<(u32, u32)> {
    let tasks = array.split('%').next()?;
    let spans = tasks.split(',').map(|part| {
        let span = part.split(':').next()?;
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    let spans: Vec<(u32, u32)> = spans.collect::<Option<_>>()?;
    let least = spans.iter().map(|(first, _)| *first).min()?;
    let most = spans.iter().map(|(_, last)| *last).max()?;
    Some((least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_arrays_are_read() {
        for (array, range) in [
            ("1-8", Some((1, 8))),
            ("3", Some((3, 3))),
            ("7,2-4", Some((2, 7))),
            ("0-15:5%2", Some((0, 15))),
            ("", None),
            ("1-", None),
            ("a", None),
        ] {
            assert_eq!(range_of(array), range, "{array}");
        }
    }
}
