//! Wilcoxon's signed-rank test of paired differences ("Individual comparisons by ranking methods", Biometrics
//! Bulletin 1945), two-sided, and Holm's correction for many of them.

/// Up to so many differences the distribution is counted out, ties or not.
const EXACT: usize = 50;

/// The probability of rank sums at least as far from each other if differences were as likely negative as positive.
/// Differences of 0 are left out (Wilcoxon's own way); none where no other is left.
///
/// As `scipy.stats.wilcoxon` without continuity correction. Where there are ties among up to 50 differences this is
/// exact, as SciPy is with `method=PermutationMethod()`.
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
    Some(match sizes.len() <= EXACT {
        true => exact_p(&doubled_ranks, positive),
        false => asymptotic_p(&doubled_ranks, positive),
    })
}

/// Twice the ranks from 1, equal values sharing the mean of theirs.
fn doubled_ranks(sorted: &[(f64, bool)]) -> Vec<usize> {
    let mut ranks = Vec::with_capacity(sorted.len());
    for same in sorted.chunk_by(|(a, _), (b, _)| a == b) {
        let first = ranks.len() + 1;
        let last = ranks.len() + same.len();
        ranks.extend(same.iter().map(|_| first + last));
    }
    ranks
}

/// Counts in how many of all choices of signs the positive ranks have each sum.
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

/// By the normal distribution of the same mean and variance.
fn asymptotic_p(doubled_ranks: &[usize], positive: usize) -> f64 {
    let ranks = doubled_ranks.iter().map(|rank| *rank as f64 / 2.0);
    let whole: f64 = ranks.clone().sum();
    // Ties are in it: the ranks are those that they share.
    let variance: f64 = ranks.map(|rank| rank * rank).sum::<f64>() / 4.0;
    let deviation = positive as f64 / 2.0 - whole / 2.0;
    libm::erfc(deviation.abs() / variance.sqrt() / std::f64::consts::SQRT_2)
}

/// Holm's step-down correction ("A simple sequentially rejective multiple test procedure", Scandinavian Journal of
/// Statistics 1979): adjusted probabilities, in the order given.
pub fn holm(probabilities: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]));
    let mut adjusted = vec![1.0; probabilities.len()];
    let mut least = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        let left = (probabilities.len() - rank) as f64;
        least = least.max((left * probabilities[index]).min(1.0));
        adjusted[index] = least;
    }
    adjusted
}
