//! Status of a training.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::state::{Epochs, Kind, State, Status, age, last_written};
use ctseg_base::Result;
use ctseg_base::mean::mean;
use ctseg_core::recipe::Recipe;
use ctseg_core::run::checkpoint::StopReason;
use ctseg_core::run::folder::{RunFolder, RunSettings};
use ctseg_core::run::history;
use ctseg_core::run::history::{EpochLine, History};
use ctseg_core::run::state_file;
use ctseg_core::run::state_file::RunState;

/// Number of last epochs to estimate the duration of the next ones from.
const RECENT: usize = 5;

/// The status of the run in the folder at `path`.
pub(super) fn of(path: &Path, now: SystemTime) -> Result<Status> {
    let mut status = Status::new(path, Kind::Fit);
    let (recipe, settings) = RunFolder::read(path)?;
    let history = history::read(path)?;
    let epochs = epochs(&recipe, &history);
    let is_finished = epochs.networks_done == epochs.networks;
    status.last_sign = last_written(files(path, &recipe).iter().map(PathBuf::as_path));
    status.dice = dice(&history);
    match RunState::read(&path.join(state_file::FILE))? {
        Some((state, owner)) => status.take_state(state, owner, now),
        None => without_state_file(&mut status, is_finished, &settings),
    }
    if status.state == State::Running {
        let lines = history.get(&epochs.network).map_or(&[][..], Vec::as_slice);
        if let Some(left) = seconds_left(&epochs, lines) {
            let written = last_written([path.join(history::FILE).as_path()]);
            status.expect_within(left - age(written, now).as_secs_f64(), now);
        }
    }
    let resume = format!("ctseg fit --resume {}", path.display());
    match status.state {
        State::Interrupted | State::Failed => status.resume = Some(resume),
        State::Done => {
            status.because = time_limit_reached(&history);
            status.resume = status.because.is_some().then_some(resume);
        }
        State::Running | State::Unknown => {}
    }
    if status.state == State::Done && !is_finished && settings.parent.is_some() {
        status.because = Some("paused by its sweep".to_owned());
    }
    status.epochs = Some(epochs);
    Ok(status)
}

/// For early versions without state files: the history shows whether a run is finished, but not its process.
fn without_state_file(status: &mut Status, is_finished: bool, settings: &RunSettings) {
    if is_finished {
        status.state = State::Done;
        return;
    }
    status.because = Some(format!(
        "written by ctseg {}, which did not record the process",
        settings.ctseg_version
    ));
}

/// Files written during a run.
fn files(path: &Path, recipe: &Recipe) -> Vec<PathBuf> {
    let own = [state_file::FILE, history::FILE, "log.txt"].map(|name| path.join(name));
    let folds = recipe.trained_folds().into_iter();
    let checkpoints =
        folds.map(|fold| path.join(format!("checkpoints/fold_{fold}/last.safetensors")));
    own.into_iter().chain(checkpoints).collect()
}

fn epochs(recipe: &Recipe, history: &History) -> Epochs {
    let networks: Vec<String> = recipe
        .trained_folds()
        .iter()
        .map(|fold| format!("fold {fold}"))
        .collect();
    let last = |network: &String| history.get(network).and_then(|lines| lines.last());
    let is_finished = |network: &&String| last(network).is_some_and(|line| line.ended.is_some());
    let current = networks.iter().find(|network| !is_finished(network));
    let shown = current.or(networks.last()).cloned().unwrap_or_default();
    let line = last(&shown);
    Epochs {
        done: line.map_or(0, |line| line.epoch),
        loss: line.and_then(|line| line.loss),
        of: recipe.training.epochs,
        networks_done: networks.iter().filter(is_finished).count(),
        networks: networks.len(),
        network: shown,
    }
}

/// Best validation Dice, averaged over the validated networks.
fn dice(history: &History) -> Option<f64> {
    let best = history.values().filter_map(|lines| history::best(lines));
    mean(best.map(|(_, dice)| dice))
}

/// Seconds from the end of the last epoch to the end of all networks; `None` before the first epoch.
fn seconds_left(epochs: &Epochs, lines: &[EpochLine]) -> Option<f64> {
    let last = lines.last()?;
    if epochs.networks_done == epochs.networks {
        return None;
    }
    let before = lines.len().saturating_sub(1 + RECENT);
    let (from, count) = match lines.get(before).filter(|_| lines.len() > 1) {
        Some(line) => (line.seconds, lines.len() - 1 - before),
        None => (0.0, last.epoch.max(1)),
    };
    let each = (last.seconds - from) / count as f64;
    let others = (epochs.networks - epochs.networks_done).saturating_sub(1);
    let left = epochs.of.saturating_sub(epochs.done) + others * epochs.of;
    Some(each * left as f64)
}

/// A note for a finished run that reached its time limit.
fn time_limit_reached(history: &History) -> Option<String> {
    let stopped = history.iter().find_map(|(network, lines)| {
        let line = lines.last()?;
        (line.ended == Some(StopReason::TimeLimit)).then_some((network, line.epoch))
    });
    stopped.map(|(network, epoch)| format!("time limit reached for {network} in epoch {epoch}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(seconds: &[f64]) -> Vec<EpochLine> {
        let line = |(index, seconds): (usize, &f64)| EpochLine {
            seconds: *seconds,
            ..history::line("fold 0", index + 1, 0.5)
        };
        seconds.iter().enumerate().map(line).collect()
    }

    #[test]
    fn the_time_left_follows_from_the_last_epochs() {
        let epochs = |done: usize| Epochs {
            network: "fold 0".to_owned(),
            done,
            of: 10,
            networks_done: 0,
            networks: 3,
            loss: None,
        };
        assert_eq!(seconds_left(&epochs(0), &[]), None);
        // 9 epochs of this network, and 10 of each other.
        assert_eq!(seconds_left(&epochs(1), &lines(&[8.0])), Some(8.0 * 29.0));
        let slow_start = [100.0, 102.0, 104.0, 106.0, 108.0, 110.0];
        let left = seconds_left(&epochs(6), &lines(&slow_start));
        assert_eq!(left, Some(2.0 * 24.0));
    }
}
