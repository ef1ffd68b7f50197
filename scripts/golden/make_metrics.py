"""Golden values for the overlap metrics: tests/golden/metrics/overlap.json.

Counts come from scikit-image's contingency table; Dice and Jaccard (intersection over union) from
scipy.spatial.distance; precision, recall and accuracy from their definitions on boolean masks; the
summary from NumPy's nanmean, nanstd(ddof=1), nanmin and nanmax. Label maps are strings of digits,
x fastest, then y, then z.

Run: python scripts/golden/make_metrics.py
"""

import json
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import distance
from skimage.metrics import contingency_table

OUT = Path(__file__).resolve().parents[2] / "tests/golden/metrics/overlap.json"
STRUCTURES = [3, 1, 0, 2, 4, 7]  # out of order on purpose; 7 never occurs


def ratio(part, whole):
    return None if whole == 0 else float(part) / float(whole)


def scores(prediction, reference, label):
    p, r = prediction == label, reference == label
    table = contingency_table(r.astype(np.int64), p.astype(np.int64)).toarray()
    table = np.pad(table, [(0, 2 - table.shape[0]), (0, 2 - table.shape[1])]).astype(int)
    both_empty = not (p.any() or r.any())
    return {
        "label": label,
        "true_positive": int(table[1, 1]),
        "false_positive": int(table[0, 1]),
        "false_negative": int(table[1, 0]),
        "true_negative": int(table[0, 0]),
        "dice": None if both_empty else float(1 - distance.dice(p.ravel(), r.ravel())),
        "iou": None if both_empty else float(1 - distance.jaccard(p.ravel(), r.ravel())),
        "precision": ratio(np.sum(p & r), np.sum(p)),
        "recall": ratio(np.sum(p & r), np.sum(r)),
        "accuracy": float(np.mean(p == r)),
    }


def blobs(rng, shape, labels):
    fields = [ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) for _ in labels]
    return np.array(labels)[np.argmax(fields, axis=0)].astype(np.uint8)


def case(rng, name, shape_zyx, labels, missing_in_prediction=(), extra=None):
    reference = blobs(rng, shape_zyx, labels)
    prediction = np.where(rng.random(shape_zyx) < 0.2, blobs(rng, shape_zyx, labels), reference)
    for label in missing_in_prediction:
        prediction[prediction == label] = 0
    if extra is not None:
        prediction[0, :3, :2] = extra
    z, y, x = shape_zyx
    start = [int(rng.integers(0, n // 2)) for n in (x, y, z)]
    end = [int(rng.integers(n // 2 + 1, n + 1)) for n in (x, y, z)]
    inside = reference[start[2] : end[2], start[1] : end[1], start[0] : end[0]]
    return {
        "name": name,
        "shape_xyz": [x, y, z],
        "prediction": "".join(map(str, prediction.ravel())),
        "reference": "".join(map(str, reference.ravel())),
        "structures": [scores(prediction, reference, label) for label in STRUCTURES],
        "region": {"start": start, "end": end},
        "recall_inside": ratio(np.count_nonzero(inside), np.count_nonzero(reference)),
    }


def summary(values):
    array = np.array([np.nan if v is None else v for v in values], dtype=float)
    defined = int(np.isfinite(array).sum())
    return {
        "mean": float(np.nanmean(array)) if defined else None,
        "sd": float(np.nanstd(array, ddof=1)) if defined > 1 else None,
        "min": float(np.nanmin(array)) if defined else None,
        "max": float(np.nanmax(array)) if defined else None,
        "defined": defined,
        "undefined": len(values) - defined,
    }


def main():
    rng = np.random.default_rng(20240611)
    cases = [
        case(rng, "all structures", (9, 11, 13), [0, 1, 2, 3, 4]),
        case(rng, "2 not predicted", (8, 10, 7), [0, 1, 2, 3], missing_in_prediction=(2,)),
        case(rng, "4 predicted but absent", (6, 9, 12), [0, 1, 2, 3], extra=4),
        case(rng, "no foreground", (4, 5, 6), [0]),
    ]
    summaries = []
    for index, label in enumerate(STRUCTURES):
        for metric in ("dice", "precision", "recall"):
            values = [c["structures"][index][metric] for c in cases]
            summaries.append({"label": label, "metric": metric, **summary(values)})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"cases": cases, "summaries": summaries}, indent=1) + "\n")


if __name__ == "__main__":
    main()
