//! Charts as the page draws them: places in percent, so that they fit any width.

use std::fmt::Write;

use serde::Serialize;

use super::scale::{Scale, Tick};
use crate::data::metric::Metric;
use crate::data::run::RunFacts;
use crate::data::spread::Spread;
use crate::data::table::MetricTable;
use ctseg_base::text::words::counted;
use ctseg_core::run::history::{EpochLine, History};
use ctseg_evaluate::scores::Better;

/// The plot's own units along both sides; the page stretches them.
const UNITS: f64 = 1000.0;

/// Colours that there are.
const COLOURS: usize = 8;

/// More structures than this make no chart of curves, and more points than this no points that are no outliers.
const MOST_STRUCTURES: usize = 16;
const MOST_POINTS: usize = 12_000;

/// Curves over epochs.
#[derive(Debug, Clone, Serialize)]
pub struct CurveChart {
    pub title: String,
    pub y_label: String,
    pub x_ticks: Vec<Tick>,
    pub y_ticks: Vec<Tick>,
    pub curves: Vec<Curve>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    pub name: String,
    pub colour: usize,
    /// `line`, `dashes` or `dots`.
    pub stroke: &'static str,
    /// SVG path data of the line, and of its points where they are drawn.
    pub path: String,
    pub dots: String,
    /// The last value, in words.
    pub last: String,
}

type Points = Vec<(f64, f64)>;

/// Name, colour, stroke and points of a curve before there is a scale.
struct Raw {
    name: String,
    colour: usize,
    stroke: &'static str,
    points: Points,
}

/// What is drawn of each network: name, stroke, and the value of an epoch.
type Kind = (&'static str, &'static str, fn(&EpochLine) -> Option<f64>);

const LOSS: [Kind; 3] = [
    ("training", "line", |line| line.loss),
    ("validation", "dashes", |line| line.validation_loss),
    ("training cases", "dots", |line| line.training_loss),
];

const DICE: [Kind; 2] = [
    ("validation", "line", |line| line.validation_dice),
    ("training cases", "dots", |line| line.training_dice),
];

const RATE: [Kind; 1] = [("learning rate", "line", |line| Some(line.learning_rate))];

/// Loss, Dice, Dice of each structure and learning rate of a run; none where no epoch is over.
pub fn curves_of(run: &RunFacts) -> Vec<CurveChart> {
    let history = &run.history;
    if history.is_empty() {
        return Vec::new();
    }
    let all = |raw: &[Raw]| -> Vec<f64> {
        let points = raw.iter().flat_map(|raw| &raw.points);
        points.map(|(_, y)| *y).collect()
    };
    let (loss, dice) = (by_network(history, &LOSS), by_network(history, &DICE));
    let rate = by_network(history, &RATE);
    let shares = Scale::exactly(0.0, 1.0);
    let loss_scale = Scale::around(all(&loss).into_iter(), 5);
    let rate_scale = Scale::of_rates(all(&rate).iter().copied());
    let mut charts = vec![
        chart("Loss", "loss", loss, loss_scale),
        chart("Dice", "Dice", dice, shares),
    ];
    let structures = by_structure(history, &run.structures);
    if !structures.is_empty() {
        charts.push(chart(
            "Validation Dice by structure",
            "Dice",
            structures,
            shares,
        ));
    }
    charts.push(chart("Learning rate", "rate", rate, rate_scale));
    charts.retain(|chart| !chart.curves.is_empty());
    charts
}

fn by_network(history: &History, kinds: &[Kind]) -> Vec<Raw> {
    let mut all = Vec::new();
    for (colour, (network, lines)) in history.iter().enumerate() {
        for (at, (what, stroke, value)) in kinds.iter().enumerate() {
            let name = match history.len() {
                1 => (*what).to_owned(),
                _ => format!("{network} {what}"),
            };
            // One network's curves have colours of their own, several networks' one each.
            let colour = if history.len() == 1 { at } else { colour };
            all.push(Raw {
                name,
                colour,
                stroke,
                points: points(lines, *value),
            });
        }
    }
    all.retain(|raw| !raw.points.is_empty());
    all
}

/// Validation Dice of each structure, its mean over the networks; nothing where there is one structure or too many.
fn by_structure(history: &History, names: &[String]) -> Vec<Raw> {
    if !(2..=MOST_STRUCTURES).contains(&names.len()) {
        return Vec::new();
    }
    let epochs = history.values().flatten().map(|line| line.epoch).max();
    let mean = |structure: usize, epoch: usize| {
        let lines = history
            .values()
            .flatten()
            .filter(|line| line.epoch == epoch);
        let values: Vec<f64> = lines
            .filter_map(|line| *line.validation_dice_per_structure.get(structure)?)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let curve = |(structure, name): (usize, &String)| Raw {
        name: name.clone(),
        colour: structure,
        stroke: if structure < COLOURS {
            "line"
        } else {
            "dashes"
        },
        points: (1..=epochs.unwrap_or(0))
            .filter_map(|epoch| Some((epoch as f64, mean(structure, epoch)?)))
            .collect(),
    };
    names.iter().enumerate().map(curve).collect()
}

fn points(lines: &[EpochLine], value: fn(&EpochLine) -> Option<f64>) -> Points {
    let points = lines
        .iter()
        .filter_map(|line| Some((line.epoch as f64, value(line)?)));
    points.filter(|(_, y)| y.is_finite()).collect()
}

fn chart(title: &str, y_label: &str, raw: Vec<Raw>, y: Scale) -> CurveChart {
    let epochs = || raw.iter().flat_map(|raw| &raw.points).map(|(x, _)| *x);
    let first = epochs().fold(f64::INFINITY, f64::min);
    let x = Scale::exactly(first.min(1.0), epochs().fold(1.0, f64::max));
    CurveChart {
        title: title.to_owned(),
        y_label: y_label.to_owned(),
        x_ticks: x.ticks(6),
        y_ticks: y.ticks(5),
        curves: raw.iter().map(|raw| drawn(raw, x, y)).collect(),
    }
}

fn drawn(raw: &Raw, x: Scale, y: Scale) -> Curve {
    let at = |(px, py): &(f64, f64)| {
        let (across, down) = (UNITS * x.place(*px), UNITS * (1.0 - y.place(*py)));
        format!("{across:.1} {down:.1}")
    };
    let (mut path, mut dots) = (String::new(), String::new());
    for (index, point) in raw.points.iter().enumerate() {
        let step = if index == 0 { "M" } else { "L" };
        let _ = write!(path, "{step}{}", at(point));
        // A single point makes no line.
        if raw.stroke == "dots" || raw.points.len() == 1 {
            let _ = write!(dots, "M{}h0", at(point));
        }
    }
    let last = raw.points.last();
    Curve {
        name: raw.name.clone(),
        colour: raw.colour % COLOURS,
        stroke: raw.stroke,
        path,
        dots,
        last: last.map_or_else(String::new, |(epoch, value)| {
            format!("{} in epoch {epoch}", short(*value))
        }),
    }
}

/// Three decimals, or as a power of ten where that would be nothing.
fn short(value: f64) -> String {
    match value.abs() {
        small if small > 0.0 && small < 1e-2 => format!("{value:.1e}"),
        _ => format!("{value:.3}"),
    }
}

/// A metric's box plots, a row for each structure.
#[derive(Debug, Clone, Serialize)]
pub struct BoxChart {
    pub key: String,
    pub label: String,
    pub ticks: Vec<Tick>,
    pub rows: Vec<BoxRow>,
}

#[derive(Debug, Clone, Serialize)]
pub struct BoxRow {
    pub structure: String,
    pub median: String,
    pub mean: String,
    pub sd: String,
    pub defined: usize,
    pub undefined: usize,
    /// None where the metric is nowhere defined.
    pub drawn: Option<DrawnBox>,
    pub points: Vec<Point>,
}

/// Places in percent.
#[derive(Debug, Clone, Serialize)]
pub struct DrawnBox {
    pub low: f64,
    pub q1: f64,
    pub median: f64,
    /// Of the box.
    pub width: f64,
    pub high: f64,
    /// In words.
    pub text: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct Point {
    pub at: f64,
    /// Pixels above or below the middle, so that equal values do not hide each other.
    pub dy: i32,
    pub outlier: bool,
    pub text: String,
}

/// One chart for each metric that is defined anywhere.
pub fn boxes_of(table: &MetricTable) -> Vec<BoxChart> {
    let cells = table.metrics.len() * table.structures.len() * table.cases.len();
    let all_points = cells <= MOST_POINTS;
    let charts = (0..table.metrics.len()).map(|metric| box_chart(table, metric, all_points));
    let drawn = |chart: &BoxChart| chart.rows.iter().any(|row| row.drawn.is_some());
    charts.filter(drawn).collect()
}

fn box_chart(table: &MetricTable, at: usize, all_points: bool) -> BoxChart {
    let metric = &table.metrics[at];
    let scale = scale_of(table, at, metric);
    let rows = (0..table.structures.len())
        .map(|structure| box_row(table, (at, structure), scale, all_points));
    BoxChart {
        key: metric.key.clone(),
        label: metric.label.clone(),
        ticks: scale.ticks(7),
        rows: rows.collect(),
    }
}

fn scale_of(table: &MetricTable, at: usize, metric: &Metric) -> Scale {
    let structures = 0..table.structures.len();
    let all = structures.flat_map(|structure| {
        (0..table.cases.len()).filter_map(move |case| table.value(case, structure, at))
    });
    let values: Vec<f64> = all.collect();
    let shares = values.iter().all(|value| (0.0..=1.0).contains(value));
    match (metric.better, shares) {
        (Better::Higher, true) => Scale::of_shares(values.into_iter()),
        _ => Scale::around(values.into_iter().chain([0.0]), 5),
    }
}

fn box_row(
    table: &MetricTable,
    (at, structure): (usize, usize),
    scale: Scale,
    all_points: bool,
) -> BoxRow {
    let metric = &table.metrics[at];
    let value = |case: usize| Some((case, table.value(case, structure, at)?));
    let values: Vec<(usize, f64)> = (0..table.cases.len()).filter_map(value).collect();
    let spread = Spread::of(values.iter().map(|(_, value)| *value));
    let summary = table.summary_of(structure, at);
    let name = &table.structures[structure].name;
    let is_outlier = |value: f64| spread.is_some_and(|spread| spread.is_outlier(value));
    let points = values
        .iter()
        .filter(|(_, value)| all_points || is_outlier(*value));
    BoxRow {
        structure: name.clone(),
        median: metric.shown(spread.map(|spread| spread.median)),
        mean: metric.shown(summary.mean),
        sd: metric.shown(summary.sd),
        defined: summary.defined,
        undefined: summary.undefined,
        points: points
            .map(|(case, value)| Point {
                at: scale.percent(*value),
                dy: (case * 7 % 9) as i32 - 4,
                outlier: is_outlier(*value),
                text: format!("{}: {}", table.cases[*case], metric.shown(Some(*value))),
            })
            .collect(),
        drawn: spread.map(|spread| drawn_box(&spread, scale, metric, name, values.len())),
    }
}

fn drawn_box(spread: &Spread, scale: Scale, metric: &Metric, name: &str, cases: usize) -> DrawnBox {
    let at = |value: f64| scale.percent(value);
    let shown = |value: f64| metric.shown(Some(value));
    DrawnBox {
        low: at(spread.low),
        q1: at(spread.q1),
        median: at(spread.median),
        width: ((at(spread.q3) - at(spread.q1)) * 100.0).round() / 100.0,
        high: at(spread.high),
        text: format!(
            "{name}, {}: median {}, half of {} between {} and {}",
            metric.label,
            shown(spread.median),
            counted(cases, "case"),
            shown(spread.q1),
            shown(spread.q3)
        ),
    }
}
