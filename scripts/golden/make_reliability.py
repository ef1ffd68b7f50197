"""Golden values for reliability curves: tests/golden/reliability/curves.json.

Bins come from NumPy's histogram with edges 0, 1/15 … 1 (a bin includes its lower edge, the last one both); the mean
probability and observed share of a bin, expected and maximum calibration error (Guo et al., ICML 2017) and
the Brier score are written out from their definitions on whole arrays in 64 bits.

Run: python scripts/golden/make_reliability.py
"""

import json
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[2] / "tests/golden/reliability/curves.json"
BINS = 15
BORDERS = np.arange(BINS + 1) / BINS


def curve(probability, inside):
    voxels = np.histogram(probability, BORDERS)[0]
    sums = np.histogram(probability, BORDERS, weights=probability)[0]
    shares = np.histogram(probability, BORDERS, weights=inside.astype(float))[0]
    some = voxels > 0
    gaps = np.abs(shares[some] / voxels[some] - sums[some] / voxels[some])
    return {
        "bin_voxels": voxels.tolist(),
        "bin_inside": shares.astype(int).tolist(),
        "mean_probability": [s / n if n else None for s, n in zip(sums.tolist(), voxels.tolist())],
        "ece": float(np.sum(gaps * voxels[some]) / voxels.sum()),
        "mce": float(gaps.max()),
        "brier": float(np.mean((probability - inside) ** 2)),
    }


def case(name, numerators, denominator, inside):
    probability = np.asarray(numerators) / denominator
    return {
        "name": name,
        "denominator": denominator,
        "numerators": np.asarray(numerators).tolist(),
        "inside": inside.astype(int).tolist(),
        **curve(probability, inside),
    }


def main():
    rng = np.random.default_rng(15)
    everything = np.arange(256)
    skewed = np.round(255 * rng.beta(0.2, 2.0, 600)).astype(int)
    middle = rng.integers(100, 180, 300)
    fine = rng.integers(0, 2049, 500)
    cases = [
        case("every step of a byte", everything, 255, rng.random(256) < everything / 255),
        case("overconfident", skewed, 255, rng.random(600) < 0.5 * skewed / 255),
        case("few bins", middle, 255, rng.random(300) < 0.4),
        case("steps of 1/2048", fine, 2048, rng.random(500) < (fine / 2048) ** 2),
        case("sure and right", np.array([0, 255, 0]), 255, np.array([False, True, False])),
        case("sure and wrong", np.array([0, 255]), 255, np.array([True, False])),
    ]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"bins": BINS, "cases": cases}) + "\n")
    print(f"{OUT}: {len(cases)} cases")


if __name__ == "__main__":
    main()
