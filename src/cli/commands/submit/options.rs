//! Resources of jobs as sbatch options.

use super::plan::JobArgs;
use crate::cli::env::GPUS;
use crate::cli::settings::Settings;
use crate::slurm::script::Work;
use crate::slurm::span::written;
use ctseg_base::{Error, Result};
use ctseg_engine::device::DeviceChoice;

/// Names and values; the value is empty for options that take none.
type Options = Vec<(String, String)>;

impl JobArgs {
    /// Options of a job that does `work`. Evaluations are short and get no time, memory, CPU or GPU options.
    ///
    /// # Errors
    /// An option cannot be written to a job script.
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
                    "--sbatch-arg {text:?} is not a long option; expected one such as --sbatch-arg=--constraint=avx512"
                ))
            })?;
            options.retain(|(own, _)| own != name);
            options.push((name.to_owned(), value.to_owned()));
        }
        let forbidden = ['\n', '\r', '"', '\'', '\\', '#'];
        if let Some((name, _)) = options.iter().find(|(_, v)| v.contains(forbidden)) {
            return Err(Error::usage(format!(
                "--{name}: job script options cannot contain quotes, backslashes, # or line breaks"
            )));
        }
        let is_single = matches!(work, Work::Fit | Work::Evaluate);
        if is_single && options.iter().any(|(name, _)| name == "array") {
            return Err(Error::usage(
                "--sbatch-arg=--array: a training is one job; arrays are for predict (--tasks) and fit-folds",
            ));
        }
        Ok(options)
    }

    /// The number of GPUs of a training, one process each, as the value of [`GPUS`]: requeued jobs see the variable
    /// too. `None` for a single process.
    pub fn gpus_per_training(&self, alone: bool, settings: &Settings) -> Result<Option<String>> {
        let requested = self.gpus.as_deref().unwrap_or_default();
        let count = requested.rsplit(':').next().unwrap_or_default();
        let count = count.parse::<usize>().unwrap_or(1);
        // Jobs inherit the environment of this command.
        if alone || (count < 2 && std::env::var_os(GPUS).is_none()) {
            return Ok(None);
        }
        if self.gpus.is_none() || count == 0 {
            return Err(Error::usage(format!(
                "{GPUS} is set and jobs inherit it: reserve as many with --gpus, or unset it"
            )));
        }
        match settings.device {
            DeviceChoice::Auto | DeviceChoice::LibTorchCuda(_) => Ok(Some(count.to_string())),
            device => Err(Error::usage(format!(
                "--gpus {requested}: the device is {device}; use --device libtorch:cuda for multi-GPU training"
            ))),
        }
    }
}

/// Whether this can be the name of a long option.
fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.bytes().all(is_part)
}

/// Adds an option unless it is already set.
pub fn by_default(options: &mut Options, name: &str, value: String) {
    if options.iter().all(|(own, _)| own != name) {
        options.push((name.to_owned(), value));
    }
}

/// Adds an array of the tasks `first` to `last`, unless `--sbatch-arg` sets one.
///
/// # Errors
/// That array has other tasks.
pub fn with_tasks(options: &mut Options, (first, last): (u32, u32)) -> Result<()> {
    by_default(options, "array", format!("{first}-{last}"));
    let named = options.iter().find(|(name, _)| name == "array");
    let named = named.map_or("", |(_, value)| value);
    match range_of(named) {
        Some((least, most)) if first <= least && most <= last => Ok(()),
        _ => Err(Error::usage(format!(
            "--sbatch-arg=--array={named}: expected tasks between {first} and {last}; their number is set by \
             --tasks (predict) or the recipe's folds (fit-folds)"
        ))),
    }
}

/// Smallest and largest task ID of arrays such as `1-8`, `3,7` or `0-15:5%2`.
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
