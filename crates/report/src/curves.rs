//! Plots of a run, `plots/loss.png` and `plots/dice.png`, drawn from the metrics in the run folder; a resumed run
//! includes all earlier epochs.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::pictures::chart::{COLOURS, Chart, Curve, Stroke};
use ctseg_base::Result;
use ctseg_core::run::folder::PLOTS;
use ctseg_core::run::history;
use ctseg_core::run::history::{EpochLine, History};
use ctseg_core::run::tracker::{EpochRecord, Event, RunIdentity, Tracker};

/// Minimum interval between redraws during a run; drawing takes about 0.1 s.
const DRAW_EVERY: Duration = Duration::from_secs(20);

/// A tracker that draws the curves of the run started last.
#[derive(Default)]
pub struct Curves(Mutex<State>);

#[derive(Default)]
struct State {
    run: Option<PathBuf>,
    drawn: Option<Instant>,
}

impl Tracker for Curves {
    fn run_started(&self, run: &RunIdentity) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.run = Some(run.folder.to_path_buf());
        state.drawn = None;
        Ok(())
    }

    fn log_epoch(&self, _: &EpochRecord) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .drawn
            .is_some_and(|drawn| drawn.elapsed() < DRAW_EVERY)
        {
            return Ok(());
        }
        let result = state.run.as_deref().map_or(Ok(()), draw);
        state.drawn = Some(Instant::now());
        result
    }

    /// Redraws before the plots are uploaded, so that they include all epochs.
    fn log_event(&self, event: &Event) -> Result<()> {
        let Event::Artifact { path, .. } = event else {
            return Ok(());
        };
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.run {
            Some(run) if *path == run.join(PLOTS) => draw(run),
            _ => Ok(()),
        }
    }
}

/// Draws the curves of the run in folder `run`, if it has any epochs.
///
/// # Errors
/// The metrics cannot be read, or the pictures cannot be written.
pub fn draw(run: &Path) -> Result<()> {
    let history = history::read(run)?;
    if history.is_empty() {
        return Ok(());
    }
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    let plots = run.join(PLOTS);
    draw_to(
        &history,
        &name,
        [&plots.join("loss.png"), &plots.join("dice.png")],
    )
}

/// Draws loss and Dice of a run named `name` to two files.
///
/// # Errors
/// The pictures cannot be written.
pub fn draw_to(history: &History, name: &str, [loss_png, dice_png]: [&Path; 2]) -> Result<()> {
    let chart = |title: &str, y_label: &str, y_range, kinds: &[Kind]| Chart {
        title: format!("{title} of {name}"),
        x_label: "epoch".to_owned(),
        y_label: y_label.to_owned(),
        y_range,
        curves: curves(history, kinds),
    };
    let loss: &[Kind] = &[
        ("training", Stroke::Line, |line| line.loss),
        ("validation", Stroke::Dashes, |line| line.validation_loss),
        ("training cases", Stroke::Dots, |line| line.training_loss),
    ];
    let dice: &[Kind] = &[
        ("training cases", Stroke::Dots, |line| line.training_dice),
        ("validation", Stroke::Dashes, |line| line.validation_dice),
    ];
    chart("Loss", "loss", None, loss).write_png(loss_png)?;
    chart("Dice", "Dice", Some((0.0, 1.0)), dice).write_png(dice_png)
}

/// Draws validation Dice and training loss of a sweep's trials (name and run folder, best first) to `plots/` in the
/// sweep's folder.
///
/// # Errors
/// See [`draw`].
pub fn draw_trials(sweep: &Path, trials: &[(String, &Path)]) -> Result<()> {
    let histories: Vec<(&str, History)> = trials
        .iter()
        .map(|(name, run)| Ok((name.as_str(), history::read(run)?)))
        .collect::<Result<_>>()?;
    let name = sweep.file_name().unwrap_or_default().to_string_lossy();
    let chart = |what: &str, y_range, value: fn(&EpochLine) -> Option<f64>| {
        let trials = histories.iter().enumerate();
        let curves = trials.flat_map(|(colour, (name, history))| {
            history.values().map(move |lines| Curve {
                name: (*name).to_owned(),
                points: points(lines, value),
                colour,
                // Colours repeat, with dashed lines.
                stroke: if colour < COLOURS {
                    Stroke::Line
                } else {
                    Stroke::Dashes
                },
            })
        });
        Chart {
            title: format!("{what} of {name}"),
            x_label: "epoch".to_owned(),
            y_label: what.to_owned(),
            y_range,
            curves: curves.collect(),
        }
    };
    let plots = sweep.join(PLOTS);
    chart("Validation Dice", Some((0.0, 1.0)), |line| {
        line.validation_dice
    })
    .write_png(&plots.join("dice.png"))?;
    chart("Training loss", None, |line| line.loss).write_png(&plots.join("loss.png"))
}

fn points(lines: &[EpochLine], value: fn(&EpochLine) -> Option<f64>) -> Vec<(f64, f64)> {
    let point = |line: &EpochLine| Some((line.epoch as f64, value(line)?));
    lines.iter().filter_map(point).collect()
}

/// A kind of curve: name, stroke, and the value of an epoch.
type Kind = (&'static str, Stroke, fn(&EpochLine) -> Option<f64>);

/// Curves of every kind for every network; one colour per network.
fn curves(history: &History, kinds: &[Kind]) -> Vec<Curve> {
    let each = history
        .iter()
        .enumerate()
        .flat_map(|(colour, (network, lines))| {
            kinds.iter().map(move |(what, stroke, value)| Curve {
                name: format!("{network} {what}"),
                points: points(lines, *value),
                colour,
                stroke: *stroke,
            })
        });
    each.collect()
}
