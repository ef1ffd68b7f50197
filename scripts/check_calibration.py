"""Checks ctseg's calibration.json and calibration.csv with NumPy and nibabel.

    check_calibration.py PREDICTIONS REFERENCES OUT    fails unless every value and bin in OUT equals NumPy's result from
                                                       the probabilities beside PREDICTIONS/<case>.nii.gz and the label
                                                       maps REFERENCES/<case>.nii.gz

Everything is computed on whole arrays in 64 bits, with one mask for a structure's surroundings (the bounding box in reference
and prediction plus 10 mm on every side) and one for each bin.
"""

import csv
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

BINS = 15
MARGIN_MM = 10


def probabilities(predictions, case):
    """Probabilities as (x, y, z, structure), and the bin of each."""
    array = predictions / f"{case}_probabilities.npy"
    if array.exists():
        values = np.load(array).astype(float).transpose(3, 2, 1, 0)
        return values, np.minimum(np.floor(values * BINS), BINS - 1).astype(int)
    codes = np.asanyarray(nib.load(predictions / f"{case}_probabilities.nii.gz").dataobj.get_unscaled()).astype(int)
    return codes / 255, np.minimum(codes * BINS // 255, BINS - 1)


def surroundings(masks, spacing):
    near = np.zeros(masks[0].shape, bool)
    places = np.argwhere(masks[0] | masks[1])
    if len(places):
        margin = np.ceil(MARGIN_MM / np.asarray(spacing)).astype(int)
        low = np.maximum(places.min(axis=0) - margin, 0)
        high = places.max(axis=0) + margin + 1
        near[tuple(slice(a, b) for a, b in zip(low, high))] = True
    return near


class Curve:
    def __init__(self):
        self.probability, self.bins, self.inside = [], [], []

    def add(self, probability, bins, inside):
        self.probability.append(probability)
        self.bins.append(bins)
        self.inside.append(inside)

    def measured(self):
        probability, bins, inside = (np.concatenate(all) for all in (self.probability, self.bins, self.inside))
        found = {"voxels": len(probability), "ece": None, "mce": None, "brier": None, "curve": []}
        for place in range(BINS):
            own = bins == place
            n = int(own.sum())
            mean, share = (float(v[own].mean()) if n else None for v in (probability, inside))
            found["curve"].append((n, int(inside[own].sum()), mean, share))
        if len(probability):
            gaps = [(n, abs(share - mean)) for n, _, mean, share in found["curve"] if n]
            found["ece"] = sum(n * gap for n, gap in gaps) / len(probability)
            found["mce"] = max(gap for _, gap in gaps)
            found["brier"] = float(np.mean((probability - inside) ** 2))
        return found


def close(found, expected, what, tolerance=1e-6):
    if expected is None:
        assert found is None, (what, found)
    else:
        assert abs(found - expected) <= tolerance, (what, found, expected)


def compare(found, expected, what):
    assert found["voxels"] == expected["voxels"], (what, found["voxels"], expected["voxels"])
    for name in ("ece", "mce", "brier"):
        close(found[name], expected[name], (what, name))
    for place, bin in enumerate(found.get("curve", [])):
        n, inside, mean, share = expected["curve"][place]
        assert (bin["voxels"], bin["inside"]) == (n, inside), (what, place, bin)
        close(bin["mean_probability"], mean, (what, place))
        close(bin["observed_share"], share, (what, place))


def main(predictions, references, out):
    report = json.loads((out / "calibration.json").read_text())
    structures = report["per_structure"]
    curves = {(name, region): Curve() for name in [*structures, "all"] for region in ("near", "whole")}
    for case, of_case in report["per_case"].items():
        label_map = nib.load(predictions / f"{case}.nii.gz")
        predicted = np.asanyarray(label_map.dataobj)
        reference = np.asanyarray(nib.load(references / f"{case}.nii.gz").dataobj)
        values, bins = probabilities(predictions, case)
        own = {region: Curve() for region in ("near", "whole")}
        for index, (name, structure) in enumerate(sorted(structures.items(), key=lambda s: s[1]["label"])):
            masks = [labels == structure["label"] for labels in (reference, predicted)]
            near = surroundings(masks, label_map.header.get_zooms())
            for region, voxels in (("near", near), ("whole", np.ones_like(near))):
                some = [values[..., index][voxels], bins[..., index][voxels], masks[0][voxels]]
                for curve in (curves[name, region], curves["all", region], own[region]):
                    curve.add(*some)
        for region in own:
            compare(of_case[region], own[region].measured(), (case, region))
    measured = {key: curve.measured() for key, curve in curves.items()}
    for (name, region), expected in measured.items():
        compare((report["pooled"] if name == "all" else structures[name])[region], expected, (name, region))
    for region in ("near", "whole"):
        for figure in ("ece", "mce", "brier"):
            all = [measured[name, region][figure] for name in structures]
            known = [value for value in all if value is not None]
            close(report["mean"][region][figure], np.mean(known) if known else None, (region, figure))
    with open(out / "calibration.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(measured) * BINS, len(rows)
    for row in rows:
        expected = measured[row["structure"], row["region"]]
        n, inside, mean, share = expected["curve"][int(row["bin"]) - 1]
        assert (int(row["voxels"]), int(row["inside"])) == (n, inside), row
        wanted = [expected["ece"], expected["mce"], expected["brier"], mean, share]
        for name, value in zip(("ece", "mce", "brier", "mean_probability", "observed_share"), wanted):
            close(float(row[name]) if row[name] else None, value, row, 1.1e-6)
    print(f"{len(rows)} bins equal NumPy's")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
