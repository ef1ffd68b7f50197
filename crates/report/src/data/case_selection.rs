//! Selection of the displayed cases.

use std::str::FromStr;

use super::table::MetricTable;
use ctseg_base::Error;

/// The metric, averaged over structures, by which cases are ranked.
const RANKED_BY: &str = "dice";

/// The cases whose images a report shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CaseSelection {
    /// The worst, median and best case.
    #[default]
    Extremes,
    /// This number of cases: worst, median and best, then the next worst.
    Count(usize),
    All,
    /// Worst, median, best, and these.
    Named(Vec<String>),
}

impl FromStr for CaseSelection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(count) = text.parse() {
            return Ok(Self::Count(count));
        }
        let names = text.split(',').map(str::trim);
        let names: Vec<String> = names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        if names.is_empty() {
            return Err(Error::usage(format!(
                "'{text}' contains no case name; expected a number, 'all' or names such as case_1,case_7"
            )));
        }
        Ok(Self::Named(names))
    }
}

/// A selected case and the reason.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectedCase {
    /// Index into the table's cases.
    pub case: usize,
    /// A short label, such as `worst`.
    pub rank: String,
    pub why: String,
    /// Mean Dice; `None` if undefined.
    pub score: Option<f64>,
}

/// Selects cases: worst, median and best by mean Dice over structures (ties by name), then the others from the worst.
///
/// # Errors
/// An unknown case name.
pub fn select_cases(
    table: &MetricTable,
    selection: &CaseSelection,
) -> Result<Vec<SelectedCase>, Error> {
    let metric = table.metric(RANKED_BY);
    let score = |case: usize| table.mean_of_case(case, metric?);
    let mut scored: Vec<(f64, usize)> = (0..table.cases.len())
        .filter_map(|case| Some((score(case)?, case)))
        .collect();
    scored.sort_by(|(a, first), (b, second)| {
        let names = || table.cases[*first].cmp(&table.cases[*second]);
        a.total_cmp(b).then_with(names)
    });
    let ranking: Vec<usize> = scored.iter().map(|(_, case)| *case).collect();
    let unscored = (0..table.cases.len()).filter(|case| !ranking.contains(case));
    let all: Vec<usize> = ranking.iter().copied().chain(unscored).collect();
    let mut order = extremes(ranking.len());
    let extremes = order.len();
    let others: Vec<usize> = (0..all.len()).filter(|at| !order.contains(at)).collect();
    order.extend(others);
    let kept = match selection {
        CaseSelection::Extremes => extremes,
        CaseSelection::Count(count) => *count,
        CaseSelection::All => all.len(),
        CaseSelection::Named(_) => extremes,
    };
    let mut chosen: Vec<usize> = order.iter().take(kept).copied().collect();
    if let CaseSelection::Named(names) = selection {
        for name in names {
            let case = table.cases.iter().position(|case| case == name);
            let case = case.ok_or_else(|| unknown_case(name, table))?;
            let at = all.iter().position(|own| *own == case).unwrap_or(case);
            if !chosen.contains(&at) {
                chosen.push(at);
            }
        }
    }
    Ok(chosen
        .into_iter()
        .map(|at| described(at, ranking.len(), all[at], score(all[at])))
        .collect())
}

/// Positions of worst, median and best in a ranking of `n`, worst first.
fn extremes(n: usize) -> Vec<usize> {
    match n {
        0 => Vec::new(),
        1 => vec![0],
        2 => vec![0, 1],
        n => vec![0, (n - 1) / 2, n - 1],
    }
}

fn described(at: usize, ranked: usize, case: usize, score: Option<f64>) -> SelectedCase {
    let (rank, why) = match (score, at) {
        (None, _) => (
            "not ranked".to_owned(),
            "Dice is undefined: no structure in reference or prediction".to_owned(),
        ),
        (Some(_), 0) if ranked == 1 => ("only case".to_owned(), "the only case".to_owned()),
        (Some(_), 0) => (
            "worst".to_owned(),
            format!("lowest mean Dice of {ranked} cases"),
        ),
        (Some(_), at) if at + 1 == ranked => (
            "best".to_owned(),
            format!("highest mean Dice of {ranked} cases"),
        ),
        (Some(_), at) if at == (ranked - 1) / 2 => (
            "median".to_owned(),
            format!(
                "median of {ranked} cases by mean Dice: {at} lower, {} higher",
                ranked - 1 - at
            ),
        ),
        (Some(_), at) => (
            format!("rank {}", ranked - at),
            format!("number {} of {ranked} by mean Dice", ranked - at),
        ),
    };
    SelectedCase {
        case,
        rank,
        why,
        score,
    }
}

fn unknown_case(name: &str, table: &MetricTable) -> Error {
    let known: Vec<&str> = table.cases.iter().take(5).map(String::as_str).collect();
    Error::usage(format!(
        "--cases: '{name}' is not a case of the evaluation; expected a number, 'all' or names such as {}",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases `a`, `b`, … with these Dice; NaN is undefined.
    fn table(dice: &[f64]) -> MetricTable {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        let mut text = "case,structure,label,dice\n".to_owned();
        for (name, dice) in ('a'..).zip(dice) {
            text += &format!("{name},liver,1,{dice}\n");
        }
        std::fs::write(&path, text).unwrap();
        MetricTable::read(&path).unwrap()
    }

    fn names(dice: &[f64], selection: &str) -> Vec<String> {
        let table = table(dice);
        let selection = match selection {
            "" => CaseSelection::Extremes,
            text => text.parse().unwrap(),
        };
        let all = select_cases(&table, &selection).unwrap().into_iter();
        all.map(|shown| format!("{} {}", table.cases[shown.case], shown.rank))
            .collect()
    }

    #[test]
    fn worst_median_and_best_are_shown_first() {
        let dice = [0.9, 0.5, 0.7, 0.5, f64::NAN, 0.8];
        let extremes = ["b worst", "c median", "a best"];
        assert_eq!(names(&dice, ""), extremes);
        assert_eq!(names(&dice, "2"), extremes[..2]);
        let more = names(&dice, "all");
        assert_eq!(more[..3], extremes);
        assert_eq!(more[3..], ["d rank 4", "f rank 2", "e not ranked"]);
        assert_eq!(
            names(&dice, "f, a"),
            [&extremes[..], &["f rank 2"]].concat()
        );
        assert!(names(&dice, "0").is_empty());
    }

    #[test]
    fn few_cases_are_shown_once() {
        assert_eq!(names(&[0.5], ""), ["a only case"]);
        assert_eq!(names(&[0.5, 0.4], ""), ["b worst", "a best"]);
        assert_eq!(names(&[f64::NAN], ""), [""; 0]);
        assert_eq!(names(&[f64::NAN], "all"), ["a not ranked"]);
        let unknown = CaseSelection::Named(vec!["z".to_owned()]);
        let error = select_cases(&table(&[0.5]), &unknown).unwrap_err();
        assert!(error.to_string().contains("such as a"), "{error}");
        assert!(" , ".parse::<CaseSelection>().is_err());
    }
}
