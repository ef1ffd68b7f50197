//! Paired comparisons and aggregates compared with SciPy and NumPy (scripts/golden/make_paired.py).

use serde::Deserialize;

use ctseg_image::metrics::summary::Aggregate;
use ctseg_image::metrics::wilcoxon::{holm, signed_rank_p};

#[derive(Deserialize)]
struct Golden {
    tests: Vec<Test>,
    aggregates: Vec<Aggregated>,
    holm: Holm,
}

#[derive(Deserialize)]
struct Test {
    name: String,
    differences: Vec<f64>,
    p: f64,
}

#[derive(Deserialize)]
struct Aggregated {
    name: String,
    scores: Vec<f64>,
    median: f64,
    quartiles: [f64; 2],
    mean_ci95: Option<[f64; 2]>,
}

#[derive(Deserialize)]
struct Holm {
    given: Vec<f64>,
    adjusted: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../../tests/golden/paired.json")).unwrap()
}

#[test]
fn p_values_match_scipy() {
    for Test {
        name,
        differences,
        p,
    } in golden().tests
    {
        let found = signed_rank_p(&differences).unwrap();
        assert!(
            (found - p).abs() < 1e-10 * p.max(1e-3),
            "{name}: {found} instead of {p}"
        );
    }
    assert_eq!(signed_rank_p(&[]), None);
    assert_eq!(signed_rank_p(&[0.0, 0.0]), None);
}

#[test]
fn holms_correction_matches_r() {
    let Holm { given, adjusted } = golden().holm;
    for (found, wanted) in holm(&given).into_iter().zip(adjusted) {
        assert!(
            (found - wanted).abs() < 1e-12,
            "{found} instead of {wanted}"
        );
    }
}

#[test]
fn aggregates_match_numpy_and_intervals_are_close_to_scipy() {
    for case in golden().aggregates {
        let found = Aggregate::of(case.scores.iter().copied().map(Some).chain([None]));
        assert!(
            (found.median.unwrap() - case.median).abs() < 1e-12,
            "{}",
            case.name
        );
        for (found, wanted) in found.quartiles.unwrap().iter().zip(case.quartiles) {
            assert!((found - wanted).abs() < 1e-12, "{}", case.name);
        }
        assert_eq!(
            (found.summary.defined, found.summary.undefined),
            (case.scores.len(), 1)
        );
        let Some([low, high]) = case.mean_ci95 else {
            assert_eq!(
                found.mean_ci95.is_some(),
                case.scores.len() > 1,
                "{}",
                case.name
            );
            continue;
        };
        let [found_low, found_high] = found.mean_ci95.unwrap();
        let difference = (found_low - low).abs().max((found_high - high).abs());
        assert!(
            difference < 0.08 * (high - low),
            "{}: {difference}",
            case.name
        );
        // Intervals are reproducible.
        let again = Aggregate::of(case.scores.iter().copied().map(Some));
        assert_eq!(again.mean_ci95, found.mean_ci95);
    }
    let nothing = Aggregate::of([None, None]);
    assert_eq!(
        (nothing.median, nothing.quartiles, nothing.mean_ci95),
        (None, None, None)
    );
}
