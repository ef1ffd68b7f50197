"""Golden values for box plots: tests/golden/report/boxplots.json.

Quartiles are those of numpy.percentile (linear interpolation); whiskers end at the most extreme values within 1.5
interquartile ranges of the box, but never inside it (Tukey, 1977; as matplotlib.cbook.boxplot_stats).

Run: python scripts/golden/make_boxplots.py
"""

import json
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[2] / "tests/golden/report/boxplots.json"
rng = np.random.default_rng(7)

samples = [
    [0.5],
    [0.2, 0.9],
    [0.8, 0.8, 0.8, 0.8],
    [0.34, 0.81, 0.84, 0.87, 0.88, 0.77],
    [1.0, 1.0, 1.0, 1.0, 9.0],
    [-3.0, 0.0, 1.0, 2.0, 2.5, 3.0, 30.0],
    rng.normal(0.8, 0.1, 31).round(4).tolist(),
    rng.lognormal(0.5, 1.0, 40).round(3).tolist(),
]


def spread(values):
    x = np.asarray(values)
    q1, median, q3 = np.percentile(x, [25, 50, 75])
    reach = 1.5 * (q3 - q1)
    inside = x[(x >= q1 - reach) & (x <= q3 + reach)]
    low, high = min(inside.min(), q1), max(inside.max(), q3)
    outliers = np.sort(x[(x < low) | (x > high)])
    numbers = {"q1": q1, "median": median, "q3": q3, "low": low, "high": high}
    return {
        "values": values,
        **{key: float(value) for key, value in numbers.items()},
        "outliers": outliers.tolist(),
    }


OUT.parent.mkdir(parents=True, exist_ok=True)
OUT.write_text(json.dumps([spread(values) for values in samples], indent=1) + "\n")
