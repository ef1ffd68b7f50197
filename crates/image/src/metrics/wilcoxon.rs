//! Two-sided Wilcoxon signed-rank test of paired differences ("Individual comparisons by ranking methods", Biometrics
//! Bulletin 1945), and Holm's correction for multiple tests.

/// Up to this many differences the distribution is exact, with or without ties.
const MAX_EXACT: usize = 50;

/// The two-sided p-value under the null hypothesis of differences symmetric around 0. Zero differences are dropped
/// (Wilcoxon's original method); `None` if no others remain.
///
/// As `scipy.stats.wilcoxon` without continuity correction. With up to 50 differences ties are handled exactly, as by
/// SciPy's `method=PermutationMethod()`.
pub fn signed_rank_p(differences: &[f64]) -> Option<f64> {
    let mut sizes: Vec<(f64, bool)> = differences
        .iter()
        .filter(|d| **d != 0.0 && d.is_finite())
        .map(|d| (d.abs(), *d > 0.0))
        .collect();
    if sizes.is_empty() {
        return None;
    }
    sizes.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
    let doubled_ranks = doubled_ranks(&sizes);
    let positive = doubled_ranks.iter().zip(&sizes).filter(|(_, (_, up))| *up);
    let positive: usize = positive.map(|(rank, _)| rank).sum();
    Some(match sizes.len() <= MAX_EXACT {
        true => exact_p(&doubled_ranks, positive),
        false => asymptotic_p(&doubled_ranks, positive),
    })
}

/// Twice the ranks, which start at 1; ties get their mean rank.
fn doubled_ranks(sorted: &[(f64, bool)]) -> Vec<usize> {
    let mut ranks = Vec::with_capacity(sorted.len());
    for same in sorted.chunk_by(|(a, _), (b, _)| a == b) {
        let first = ranks.len() + 1;
        let last = ranks.len() + same.len();
        ranks.extend(same.iter().map(|_| first + last));
    }
    ranks
}

/// The exact p-value: counts the sign assignments that lead to each sum of positive ranks.
fn exact_p(doubled_ranks: &[usize], positive: usize) -> f64 {
    let whole: usize = doubled_ranks.iter().sum();
    let mut ways = vec![0.0; whole + 1];
    ways[0] = 1.0;
    let mut largest = 0;
    for rank in doubled_ranks {
        largest += rank;
        for sum in (*rank..=largest).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    let smaller = positive.min(whole - positive);
    let tail: f64 = ways[..=smaller].iter().sum();
    (2.0 * tail / 2f64.powi(doubled_ranks.len() as i32)).min(1.0)
}

/// The p-value by normal approximation.
fn asymptotic_p(doubled_ranks: &[usize], positive: usize) -> f64 {
    let ranks = doubled_ranks.iter().map(|rank| *rank as f64 / 2.0);
    let whole: f64 = ranks.clone().sum();
    // The mean ranks account for ties.
    let variance: f64 = ranks.map(|rank| rank * rank).sum::<f64>() / 4.0;
    let deviation = positive as f64 / 2.0 - whole / 2.0;
    libm::erfc(deviation.abs() / variance.sqrt() / std::f64::consts::SQRT_2)
}

/// Holm's step-down correction ("A simple sequentially rejective multiple test procedure", Scandinavian Journal of
/// Statistics 1979): adjusted p-values, in the order given.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut least = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        let left = (p_values.len() - rank) as f64;
        least = least.max((left * p_values[index]).min(1.0));
        adjusted[index] = least;
    }
    adjusted
}
