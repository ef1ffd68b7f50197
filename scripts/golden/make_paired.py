"""Golden values for paired comparisons and for summaries of a score over cases: tests/golden/paired.json.

Wilcoxon signed-rank test by scipy.stats.wilcoxon (two-sided, zeros dropped, no continuity correction): exact for up to
50 differences without ties, all permutations for few differences with ties, normal approximation above. Holm's
correction written out as in R's p.adjust. Median and quartiles by NumPy; the bootstrap interval of the mean by
scipy.stats.bootstrap (percentile, 20 000 resamples), which other resamples only match within a tolerance.

Run: python scripts/golden/make_paired.py    (NumPy, SciPy: scripts/references.txt)
"""

import json
from pathlib import Path

import numpy as np
from scipy import stats

OUT = Path(__file__).resolve().parents[2] / "tests/golden/paired.json"


def tests():
    random = np.random.default_rng(0)
    permutations = stats.PermutationMethod(n_resamples=np.inf)
    for name, differences, method in [
        ("few", random.normal(0.3, 1, 7), "exact"),
        ("one", np.array([0.4]), "exact"),
        ("clear", random.normal(2, 0.5, 20), "exact"),
        ("fifty", random.normal(0.2, 1, 50), "exact"),
        ("ties", np.array([1.0, 1, -1, 2, 2, 3, -3, 0.5, 4, 4, 1]), permutations),
        ("ties_and_zeros", np.array([0.0, 1, -1, 2, 0, 3, -2, 2, 0.5]), permutations),
        ("many", random.normal(0.2, 1, 80), "asymptotic"),
        ("many_ties", np.round(random.normal(0.3, 1, 120), 1), "asymptotic"),
    ]:
        used = differences[differences != 0]
        p = stats.wilcoxon(used, correction=False, method=method).pvalue
        yield {"name": name, "differences": differences.tolist(), "p": float(p)}


def aggregates():
    random = np.random.default_rng(1)
    for name, scores in [
        ("beta", random.beta(8, 2, 40)),
        ("skewed", random.gamma(1.5, 3, 25)),
        ("two", np.array([0.25, 0.75])),
        ("one", np.array([0.6])),
    ]:
        interval = None
        if len(scores) > 2:
            found = stats.bootstrap((scores,), np.mean, n_resamples=20000, method="percentile", rng=0)
            interval = [float(found.confidence_interval.low), float(found.confidence_interval.high)]
        yield {
            "name": name,
            "scores": scores.tolist(),
            "median": float(np.median(scores)),
            "quartiles": np.quantile(scores, [0.25, 0.75]).tolist(),
            "mean_ci95": interval,
        }


def holm():
    given = [0.01, 0.04, 0.03, 0.005, 0.5, 0.04]
    order = np.argsort(given, kind="stable")
    adjusted = np.empty(len(given))
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(given) - np.arange(len(given))) * np.array(given)[order]))
    return {"given": given, "adjusted": adjusted.tolist()}


def main():
    OUT.write_text(json.dumps({"tests": list(tests()), "aggregates": list(aggregates()), "holm": holm()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
