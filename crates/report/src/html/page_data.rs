//! Data for the page's script, as JSON that is safe inside HTML.

use serde_json::{Value, json};

use super::case_view::CaseView;
use super::sheet::KNOTS;
use crate::data::Report;
use crate::data::table::MetricTable;
use ctseg_evaluate::metrics::Better;
use ctseg_image::space::label_colour;

/// Maximum number of values in the page; the last metrics are dropped to stay below it.
const MAX_NUMBERS: usize = 400_000;

/// All data of the script except the voxels.
pub fn data_of(report: &Report, viewed: &[CaseView]) -> Value {
    let table = report.evaluation.as_ref().map(|e| table_json(&e.table));
    let views: Vec<Value> = viewed
        .iter()
        .map(|viewed| json!({"name": viewed.case, "planes": viewed.planes}))
        .collect();
    json!({"table": table, "views": views, "knots": KNOTS})
}

fn table_json(table: &MetricTable) -> Value {
    let (cases, structures) = (table.cases.len(), table.structures.len());
    let metrics = shown_metrics(table);
    let numbers = (0..cases).flat_map(|case| {
        (0..structures).flat_map(move |structure| {
            (0..metrics).map(move |metric| rounded(table.value(case, structure, metric)))
        })
    });
    let described = table.metrics.iter().take(metrics).map(|metric| {
        let better = match metric.better {
            Better::Higher => 1,
            Better::Lower => -1,
            Better::Neither => 0,
        };
        json!({"key": metric.key, "label": metric.label, "digits": metric.digits, "better": better})
    });
    let named = table.structures.iter().map(|structure| {
        let [r, g, b] = label_colour(structure.value);
        json!({"name": structure.name, "label": structure.value, "colour": [r, g, b]})
    });
    json!({
        "cases": table.cases,
        "structures": named.collect::<Vec<_>>(),
        "metrics": described.collect::<Vec<_>>(),
        "values": numbers.collect::<Vec<_>>(),
    })
}

/// Number of metrics in the page.
pub fn shown_metrics(table: &MetricTable) -> usize {
    let of_one = table.cases.len() * table.structures.len();
    table
        .metrics
        .len()
        .min((MAX_NUMBERS / of_one.max(1)).max(1))
}

/// Rounds to five significant digits, which halves the size.
fn rounded(value: Option<f64>) -> Option<f64> {
    format!("{:.4e}", value?).parse().ok()
}

/// JSON that can neither end its script element nor start another: characters with a meaning in HTML or old JavaScript
/// are escaped, see <https://html.spec.whatwg.org/#restrictions-for-contents-of-script-elements>.
pub fn in_html(value: &Value) -> String {
    let text = value.to_string();
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                safe += &format!("\\u{:04x}", letter as u32);
            }
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cases_do_not_end_the_script() {
        let foreign = "</script><script>alert(1)</script><!-- & \u{2028} \" ü";
        let text = in_html(&json!({ foreign: [foreign] }));
        assert!(!text.contains('<') && !text.contains('>') && !text.contains('&'));
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back[foreign][0], foreign);
        assert_eq!(rounded(Some(0.123456789)), Some(0.12346));
        assert_eq!(rounded(Some(-123456.0)), Some(-123460.0));
        assert_eq!(rounded(None), None);
    }
}
