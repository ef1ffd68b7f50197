"""Benchmarks ctseg's resampling against scikit-image's resize on one volume.

scikit-image is called as in nnU-Net (order 3 or 1, mode edge, no anti-aliasing), on float64, to which
nnU-Net casts, and on float32. Runs `cargo bench --bench resample`, reports the largest difference of the
cubic results, and prints one JSON object. Times are the minimum over the repetitions.

Run: python scripts/bench_resample.py [--source 256,256,150] [--target 197,197,115] [--repetitions 5]
     [--manifest Cargo.toml]
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.transform import resize

ROOT = Path(__file__).resolve().parents[1]


def sizes(text):
    return tuple(int(n) for n in text.split(","))


def generated(shape_zyx):
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape_zyx, dtype=np.float32), 3)
    volume = np.where(smooth > 0.02, 800, np.where(smooth > 0, 40, -1000))
    return (volume + 20 * rng.standard_normal(shape_zyx, dtype=np.float32)).astype("<f4")


def best_of(repetitions, work):
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=sizes, default=(256, 256, 150), help="voxels x,y,z")
    parser.add_argument("--target", type=sizes, default=(197, 197, 115), help="voxels x,y,z")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--manifest", type=Path, default=ROOT / "Cargo.toml")
    options = parser.parse_args()
    volume = generated(options.source[::-1])
    with tempfile.TemporaryDirectory() as folder:
        voxels, result = Path(folder) / "voxels.f32", Path(folder) / "result.f32"
        voxels.write_bytes(volume.tobytes())
        command = ["cargo", "bench", "--quiet", "--manifest-path", options.manifest, "--bench", "resample", "--"]
        shapes = [",".join(map(str, shape)) for shape in (options.source, options.target)]
        command += [str(options.repetitions), *shapes, str(voxels), str(result)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        report = {"ctseg": json.loads(run.stdout.strip().splitlines()[-1]), "scikit_image": {}, "ratio": {}}
        ours = np.frombuffer(result.read_bytes(), "<f4").reshape(options.target[::-1])
    for name, order in (("cubic", 3), ("linear", 1)):
        for dtype in (np.float32, np.float64):
            data = volume.astype(dtype)
            # A few repetitions are enough for calls that take seconds.
            seconds, theirs = best_of(
                min(options.repetitions, 3),
                lambda: resize(data, options.target[::-1], order, mode="edge", anti_aliasing=False, preserve_range=True),
            )
            key = f"{name}_{np.dtype(dtype).name}"
            report["scikit_image"][f"{key}_s"] = round(seconds, 4)
            report["ratio"][key] = round(seconds / report["ctseg"][f"{name}_s"], 1)
            if key == "cubic_float64":
                report["cubic_largest_difference"] = float(np.abs(theirs - ours).max())
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
