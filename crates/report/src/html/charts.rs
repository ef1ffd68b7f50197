//! Charts of the page, with positions in percent so that they fit any width.

use std::fmt::Write;

use serde::Serialize;

use super::scale::{Scale, Tick};
use crate::data::box_plot::BoxPlotStats;
use crate::data::metric::Metric;
use crate::data::run::RunFacts;
use crate::data::table::MetricTable;
use ctseg_base::mean::mean;
use ctseg_base::text::words::counted;
use ctseg_core::run::history::{EpochLine, History};
use ctseg_evaluate::metrics::Better;

/// Width and height of the plot in SVG units; the page stretches them.
const UNITS: f64 = 1000.0;

/// Number of colours in the stylesheet.
const COLOURS: usize = 8;

/// With more structures, the chart of curves by structure is omitted.
const MAX_STRUCTURES: usize = 16;
/// With more points, box plots show only outliers.
const MAX_POINTS: usize = 12_000;

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
    /// SVG path data of the line.
    pub path: String,
    /// SVG path data of the points, if drawn.
    pub dots: String,
    /// The last value and its epoch.
    pub last: String,
}

type Points = Vec<(f64, f64)>;

/// A curve before scaling.
struct Raw {
    name: String,
    colour: usize,
    stroke: &'static str,
    points: Points,
}

/// A kind of curve: name, stroke, and the value of an epoch.
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

/// Charts of a run: loss, Dice, Dice by structure and learning rate; empty before the first completed epoch.
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
            // One network: a colour per curve. Several networks: a colour per network.
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

/// Validation Dice of each structure, averaged over the networks; empty for one structure or too many.
fn by_structure(history: &History, names: &[String]) -> Vec<Raw> {
    if !(2..=MAX_STRUCTURES).contains(&names.len()) {
        return Vec::new();
    }
    let epochs = history.values().flatten().map(|line| line.epoch).max();
    let mean_dice = |structure: usize, epoch: usize| {
        let lines = history
            .values()
            .flatten()
            .filter(|line| line.epoch == epoch);
        mean(lines.filter_map(|line| *line.validation_dice_per_structure.get(structure)?))
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
            .filter_map(|epoch| Some((epoch as f64, mean_dice(structure, epoch)?)))
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
        // A single point needs a dot, as it has no line.
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

/// Three decimals, or scientific notation below 0.01.
fn short(value: f64) -> String {
    match value.abs() {
        small if small > 0.0 && small < 1e-2 => format!("{value:.1e}"),
        _ => format!("{value:.3}"),
    }
}

/// Box plots of a metric, one row per structure.
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
    /// `None` if the metric is undefined in all cases.
    pub drawn: Option<DrawnBox>,
    pub points: Vec<Point>,
}

/// A box plot with positions in percent.
#[derive(Debug, Clone, Serialize)]
pub struct DrawnBox {
    pub low: f64,
    pub q1: f64,
    pub median: f64,
    pub width: f64,
    pub high: f64,
    /// Description for tooltips and screen readers.
    pub text: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct Point {
    pub at: f64,
    /// Vertical offset in pixels, so that equal values do not hide each other.
    pub dy: i32,
    pub outlier: bool,
    pub text: String,
}

/// One chart for each metric that is defined in any case.
pub fn boxes_of(table: &MetricTable) -> Vec<BoxChart> {
    let cells = table.metrics.len() * table.structures.len() * table.cases.len();
    let all_points = cells <= MAX_POINTS;
    let charts = (0..table.metrics.len()).map(|metric| box_chart(table, metric, all_points));
    let drawn = |chart: &BoxChart| chart.rows.iter().any(|row| row.drawn.is_some());
    charts.filter(drawn).collect()
}

fn box_chart(table: &MetricTable, at: usize, all_points: bool) -> BoxChart {
    let metric = &table.metrics[at];
    let scale = scale_of(table, at, metric);
    let rows = (0..table.structures.len())
        .map(|structure| box_row(table, at, structure, scale, all_points));
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
    at: usize,
    structure: usize,
    scale: Scale,
    all_points: bool,
) -> BoxRow {
    let metric = &table.metrics[at];
    let value = |case: usize| Some((case, table.value(case, structure, at)?));
    let values: Vec<(usize, f64)> = (0..table.cases.len()).filter_map(value).collect();
    let stats = BoxPlotStats::of(values.iter().map(|(_, value)| *value));
    let summary = table.summary_of(structure, at);
    let name = &table.structures[structure].name;
    let is_outlier = |value: f64| stats.is_some_and(|stats| stats.is_outlier(value));
    let points = values
        .iter()
        .filter(|(_, value)| all_points || is_outlier(*value));
    BoxRow {
        structure: name.clone(),
        median: metric.shown(stats.map(|stats| stats.median)),
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
        drawn: stats.map(|stats| drawn_box(&stats, scale, metric, name, values.len())),
    }
}

fn drawn_box(
    stats: &BoxPlotStats,
    scale: Scale,
    metric: &Metric,
    name: &str,
    cases: usize,
) -> DrawnBox {
    let at = |value: f64| scale.percent(value);
    let shown = |value: f64| metric.shown(Some(value));
    DrawnBox {
        low: at(stats.low),
        q1: at(stats.q1),
        median: at(stats.median),
        width: ((at(stats.q3) - at(stats.q1)) * 100.0).round() / 100.0,
        high: at(stats.high),
        text: format!(
            "{name}, {}: median {}, quartiles {} and {}, {}",
            metric.label,
            shown(stats.median),
            shown(stats.q1),
            shown(stats.q3),
            counted(cases, "case")
        ),
    }
}
