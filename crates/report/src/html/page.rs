//! Builds the template's context from a report and renders the page.

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::case_view::CaseView;
use super::charts::{BoxChart, CurveChart, boxes_of, curves_of};
use super::facts::{Facts, RecipeText, facts_of, recipes_of};
use super::page_data::{data_of, in_html, shown_metrics};
use super::sheet::base64;
use crate::data::Report;
use crate::data::evaluation::EvaluationFacts;
use crate::data::table::MetricTable;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_evaluate::metrics::Better;
use ctseg_image::metrics::overlap::Summary;
use ctseg_image::space::label_colour;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

/// The page's script. Each file has its own scope; `page.js` uses what `viewer.js` defines.
const SCRIPT: &str = concat!(include_str!("viewer.js"), include_str!("page.js"));

/// The template's context.
#[derive(Serialize)]
struct Page<'a> {
    title: &'a str,
    subtitle: String,
    version: &'static str,
    style: &'static str,
    script: &'static str,
    /// For the content security policy, which allows no other script.
    script_hash: String,
    data: String,
    tiles: Vec<Tile>,
    failed: &'a [(String, String)],
    missing: &'a [String],
    case_notes: &'a [(String, Vec<String>)],
    boxes: Vec<BoxChart>,
    /// Heading and direction of each column.
    case_header: Vec<(String, &'static str)>,
    case_rows: Vec<CaseRow>,
    structures: Vec<Listed>,
    left_out_metrics: usize,
    views: Vec<View<'a>>,
    has_viewer: bool,
    has_roi: bool,
    runs: Vec<Training>,
    facts: Vec<Facts>,
    recipes: Vec<RecipeText>,
}

/// A headline number.
#[derive(Serialize)]
struct Tile {
    label: String,
    value: String,
    detail: String,
}

/// A run's curves.
#[derive(Serialize)]
struct Training {
    name: String,
    curves: Vec<CurveChart>,
    verdicts: Vec<String>,
}

/// A row of the case table before the script runs: means over the structures.
#[derive(Serialize)]
struct CaseRow {
    name: String,
    /// Index among the displayed cases.
    view: Option<usize>,
    cells: Vec<String>,
}

/// A displayed case.
#[derive(Serialize)]
struct View<'a> {
    index: usize,
    name: &'a str,
    rank: &'a str,
    why: &'a str,
    score: String,
    shown: bool,
    reduced: &'a [String],
    notes: &'a [String],
    problems: &'a [String],
    image: &'a str,
    reference: &'a str,
    prediction: &'a str,
}

/// A structure in the viewer's list.
#[derive(Serialize)]
struct Listed {
    name: String,
    colour: String,
}

/// Renders the report as one HTML document.
///
/// # Errors
/// The template does not match its context, which is a bug.
pub fn html(report: &Report, viewed: &[CaseView]) -> Result<String> {
    let problem =
        |error: minijinja::Error| Error::internal(format!("the report's template: {error:#}"));
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // The name's extension enables HTML escaping.
    environment
        .add_template("page.html", TEMPLATE)
        .map_err(problem)?;
    let template = environment.get_template("page.html").map_err(problem)?;
    template
        .render(Serde(&page(report, viewed)))
        .map_err(problem)
}

fn page<'a>(report: &'a Report, viewed: &'a [CaseView]) -> Page<'a> {
    let evaluation = report.evaluation.as_ref();
    let table = evaluation.map(|evaluation| &evaluation.table);
    let mut planes = viewed.iter().filter_map(|viewed| viewed.planes.as_ref());
    Page {
        title: &report.title,
        subtitle: subtitle(report),
        version: env!("CARGO_PKG_VERSION"),
        style: STYLE,
        script: SCRIPT,
        script_hash: format!("sha256-{}", base64(&Sha256::digest(SCRIPT))),
        data: in_html(&data_of(report, viewed)),
        tiles: evaluation.map(tiles).unwrap_or_default(),
        failed: evaluation.map_or(&[], |evaluation| &evaluation.failed),
        missing: evaluation.map_or(&[], |evaluation| &evaluation.missing),
        case_notes: &report.provenance.notes,
        boxes: table.map(boxes_of).unwrap_or_default(),
        case_header: table.map(case_header).unwrap_or_default(),
        case_rows: table.map_or_else(Vec::new, |table| case_rows(table, viewed)),
        structures: table.map(listed).unwrap_or_default(),
        left_out_metrics: table.map_or(0, |table| table.metrics.len() - shown_metrics(table)),
        has_viewer: viewed.iter().any(|viewed| viewed.planes.is_some()),
        has_roi: planes.any(|planes| planes.roi.is_some()),
        views: (0..).zip(viewed).map(view).collect(),
        runs: report.runs.iter().map(training).collect(),
        facts: facts_of(report),
        recipes: recipes_of(report),
    }
}

fn subtitle(report: &Report) -> String {
    let mut parts = Vec::new();
    if let Some(evaluation) = &report.evaluation {
        let table = &evaluation.table;
        parts.push(counted(table.cases.len(), "case"));
        parts.push(counted(table.structures.len(), "structure"));
        if let Some(written) = evaluation.written {
            parts.push(format!("evaluated {}", written.strftime("%-d %B %Y")));
        }
    }
    if !report.runs.is_empty() {
        parts.push(counted(report.runs.len(), "training run"));
    }
    parts.join(" · ")
}

/// Means of the main metrics, lowest Dice, recall of stage 1's region of interest, and number of cases.
fn tiles(evaluation: &EvaluationFacts) -> Vec<Tile> {
    /// Prefixes of the main metrics; the first match of each is shown.
    const FIRST: [&str; 4] = ["dice", "nsd", "hd95", "assd"];
    let table = &evaluation.table;
    let mut tiles = Vec::new();
    for key in FIRST {
        let at = table.metrics.iter().position(|m| m.key.starts_with(key));
        tiles.extend(at.and_then(|at| mean_tile(table, at)));
    }
    if let Some(tile) = worst_tile(table) {
        tiles.push(tile);
    }
    if let Some(recall) = evaluation.roi_recall {
        let detail = evaluation.roi_share.map_or_else(String::new, |share| {
            format!("ROI covers {:.1} % of the volume", 100.0 * share)
        });
        tiles.push(Tile {
            label: "reference inside stage 1 ROI".to_owned(),
            value: format!("{:.2} %", 100.0 * recall),
            detail,
        });
    }
    let open = evaluation.failed.len() + evaluation.missing.len();
    tiles.push(Tile {
        label: "cases evaluated".to_owned(),
        value: table.cases.len().to_string(),
        detail: match open {
            0 => "none failed, none missing".to_owned(),
            _ => format!(
                "{} failed, {} missing",
                evaluation.failed.len(),
                evaluation.missing.len()
            ),
        },
    });
    tiles
}

fn mean_tile(table: &MetricTable, at: usize) -> Option<Tile> {
    let metric = &table.metrics[at];
    let mean = table.mean(at)?;
    let cases = (0..table.cases.len()).map(|case| table.mean_of_case(case, at));
    let summary = Summary::of(cases);
    let range = summary.min.zip(summary.max);
    Some(Tile {
        label: format!("mean {}", metric.label),
        value: metric.shown(Some(mean)),
        detail: range.map_or_else(String::new, |(low, high)| {
            let (low, high) = (metric.shown(Some(low)), metric.shown(Some(high)));
            format!("cases range from {low} to {high}")
        }),
    })
}

/// The lowest Dice of any structure in any case.
fn worst_tile(table: &MetricTable) -> Option<Tile> {
    let at = table.metric("dice")?;
    let all = (0..table.cases.len())
        .flat_map(|case| (0..table.structures.len()).map(move |structure| (case, structure)));
    let worst = all
        .filter_map(|(case, structure)| Some((table.value(case, structure, at)?, case, structure)))
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    let (dice, case, structure) = worst;
    Some(Tile {
        label: "lowest Dice".to_owned(),
        value: table.metrics[at].shown(Some(dice)),
        detail: format!(
            "{} in {}",
            table.structures[structure].name, table.cases[case]
        ),
    })
}

/// Heading and direction of each column of the case table.
fn case_header(table: &MetricTable) -> Vec<(String, &'static str)> {
    let metrics = table.metrics.iter().take(shown_metrics(table));
    metrics
        .map(|metric| {
            let better = match metric.better {
                Better::Higher => "higher is better",
                Better::Lower => "lower is better",
                Better::Neither => "",
            };
            (metric.label.clone(), better)
        })
        .collect()
}

fn case_rows(table: &MetricTable, viewed: &[CaseView]) -> Vec<CaseRow> {
    let metrics = shown_metrics(table);
    let row = |case: usize| CaseRow {
        name: table.cases[case].clone(),
        view: viewed.iter().position(|viewed| viewed.shown.case == case),
        cells: (0..metrics)
            .map(|at| table.metrics[at].shown(table.mean_of_case(case, at)))
            .collect(),
    };
    (0..table.cases.len()).map(row).collect()
}

fn listed(table: &MetricTable) -> Vec<Listed> {
    let structures = table.structures.iter();
    structures
        .map(|structure| {
            let [r, g, b] = label_colour(structure.value);
            Listed {
                name: structure.name.clone(),
                colour: format!("#{r:02x}{g:02x}{b:02x}"),
            }
        })
        .collect()
}

fn view((index, viewed): (usize, &CaseView)) -> View<'_> {
    let planes = viewed.planes.as_ref();
    View {
        index,
        name: &viewed.case,
        rank: &viewed.shown.rank,
        why: &viewed.shown.why,
        score: viewed
            .shown
            .score
            .map_or_else(|| "–".to_owned(), |score| format!("{score:.3}")),
        shown: planes.is_some(),
        reduced: planes.map_or(&[], |planes| &planes.reduced),
        notes: &viewed.notes,
        problems: &viewed.problems,
        image: planes.map_or("", |planes| &planes.image),
        reference: planes.map_or("", |planes| &planes.reference),
        prediction: planes.map_or("", |planes| &planes.prediction),
    }
}

fn training(run: &crate::data::run::RunFacts) -> Training {
    let verdicts = run.diagnoses.iter().map(|diagnosis| {
        format!(
            "{}: {} ({})",
            diagnosis.network, diagnosis.verdict, diagnosis.because
        )
    });
    Training {
        name: run.name.clone(),
        curves: curves_of(run),
        verdicts: verdicts.collect(),
    }
}
