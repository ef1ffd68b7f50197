"""Benchmarks ctseg's reading and writing of NIfTI files against nibabel and Python's gzip.

A noisy CT of --shape and a label map with 20 blobs are generated and saved by nibabel at its default level (1). Runs
`cargo bench --bench nifti` (or --program, the compiled benchmark) and prints one JSON object. Times are the minimum
over the repetitions, in seconds; files are written to --folder.

Run: python scripts/bench_nifti.py [--shape 512,512,400] [--repetitions 3] [--program FILE] [--folder DIR]
"""

import argparse
import gzip
import json
import subprocess
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]


def generated(shape):
    rng = np.random.default_rng(1)
    coarse = rng.standard_normal([max(n // 16, 2) for n in shape]).astype("f4")
    zoom = [n / c for n, c in zip(shape, coarse.shape)]
    smooth = ndimage.zoom(coarse, zoom, order=1)
    z = np.linspace(-1, 1, shape[0], dtype="f4")[:, None, None] ** 2
    y = np.linspace(-1, 1, shape[1], dtype="f4")[None, :, None] ** 2
    body = z + y < 0.8
    hu = np.where(body, 40 + 60 * smooth, -1000) + 15 * rng.standard_normal(shape, dtype="f4")
    labels = np.where(body & (np.abs(smooth) > 0.8), np.clip(10 + 6 * smooth, 1, 20), 0)
    return hu.round().astype("i2"), labels.astype("u1")


def best_of(repetitions, work):
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=lambda text: tuple(int(n) for n in text.split(",")), default=(512, 512, 400))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--program", type=Path)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    hu, labels = generated(options.shape)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = Path(folder)
        images = {name: nib.Nifti1Image(data, np.diag([0.8, 0.8, 1.0, 1])) for name, data in
                  (("ct", hu), ("labels", labels))}
        mask = nib.Nifti1Image((labels == 5).astype("u1"), images["ct"].affine)
        paths = {name: folder / f"{name}_nibabel.nii.gz" for name in ("ct", "labels", "mask")}
        save = lambda name, image: best_of(options.repetitions, lambda: nib.save(image, paths[name]))
        theirs = {
            "write_labels_s": save("labels", images["labels"]),
            "write_mask_s": save("mask", mask),
            "write_volume_s": save("ct", images["ct"]),
            "python_gzip_9_labels_s": best_of(1, lambda: gzip.compress(labels.tobytes(order="F"))),
            "read_volume_s": best_of(
                options.repetitions, lambda: np.asarray(nib.load(paths["ct"]).dataobj).astype("f4")
            ),
            "read_labels_s": best_of(
                options.repetitions, lambda: np.asarray(nib.load(paths["labels"]).dataobj).astype("u2")
            ),
            "bytes": {name: path.stat().st_size for name, path in paths.items()},
        }
        command = [options.program] if options.program else ["cargo", "bench", "--quiet", "--bench", "nifti", "--"]
        command += [str(options.repetitions), folder, paths["ct"], paths["labels"]]
        run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        ours = json.loads(run.stdout.strip().splitlines()[-1])
        for name, expected in (("ct", hu), ("labels", labels)):
            assert np.array_equal(np.asanyarray(nib.load(folder / f"{name}.nii.gz").dataobj), expected), name
    same = [name for name in ours if name in theirs]
    print(json.dumps({"ctseg": ours, "nibabel": theirs,
                      "ratio": {name: round(theirs[name] / ours[name], 1) for name in same}}, indent=1))


if __name__ == "__main__":
    main()
