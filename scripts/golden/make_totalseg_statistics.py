"""Golden values for TotalSegmentator's statistics.json: tests/golden/totalseg/statistics.json.

Every value comes from TotalSegmentator's `get_basic_statistics` with all combinations of options, on the CT and label map
of its own tests (tests/data), and on a generated pair with spacings that 32 bits cannot represent.

Needs TotalSegmentator 2.18.0 (`pip install --no-deps TotalSegmentator==2.18.0`), nibabel, numpy, tqdm.
Run: python scripts/golden/make_totalseg_statistics.py
"""

import itertools
import json
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from totalsegmentator.map_to_binary import class_map
from totalsegmentator.statistics import get_basic_statistics

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/golden/totalseg"
SPACING = (0.703125, 0.7, 1.3)


def generated():
    """A CT with fractional values, and blocks of labels, one of them three layers from the border."""
    rng = np.random.default_rng(7)
    shape = (24, 20, 16)
    ct = (rng.normal(0, 400, shape) * 8).round() / 8
    seg = np.zeros(shape, np.uint8)
    seg[3:8, 3:9, 3:7] = 1
    seg[12:21, 10:17, 8:13] = 2
    seg[14:16, 2:6, 4:9] = 3
    return ct, seg, np.diag([*SPACING, 1.0])


def figures(seg, ct_img, ways):
    metric, at_border, normalized = ways
    names = [class_map["total"][label] for label in np.unique(seg) if label > 0]
    return get_basic_statistics(
        seg, ct_img, None, True, "total", not at_border, names, metric, normalized
    )


def text(seg, ct_img):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "statistics.json"
        get_basic_statistics(seg, ct_img, file, True, "total", False, ["liver", "aorta", "spleen"])
        return file.read_text()


def cases():
    ct = nib.load(ROOT / "tests/data/example_ct_sm.nii.gz")
    seg = np.asanyarray(nib.load(ROOT / "tests/data/example_seg.nii.gz").dataobj)
    made, labels, affine = generated()
    return {"example": (seg, ct), "generated": (labels, nib.Nifti1Image(made.astype(np.float32), affine))}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    golden = {"cases": {}, "generated": {}}
    ways = list(itertools.product(["mean", "median"], [False, True], [False, True]))
    for name, (seg, ct) in cases().items():
        golden["cases"][name] = {
            f"{metric}{',incomplete' * border}{',normalized' * normalized}": figures(
                seg, ct, (metric, border, normalized)
            )
            for metric, border, normalized in ways
        }
    made, labels, _ = generated()
    golden["generated"] = {
        "spacing_mm": SPACING,
        "shape": made.shape,
        "eighths_hu": (made * 8).astype(int).ravel(order="F").tolist(),
        "labels": labels.ravel(order="F").tolist(),
    }
    (OUT / "statistics.json").write_text(json.dumps(golden))
    seg, ct = cases()["example"]
    (OUT / "three_structures.json").write_text(text(seg, ct))


if __name__ == "__main__":
    main()
