"""Benchmarks the export of many structures to a large volume: ctseg against a plain export with SciPy and NumPy.

ctseg segments a phantom of 512 x 512 x 400 voxels on a grid of 1.5 mm with a small network of random weights and
--structures independent output maps. Seconds of restoring and writing come from its sidecar, peak memory from the sidecar
and the kernel. The plain export resamples every structure's logits to the volume (scipy.ndimage.zoom, order 1), keeps them
all, and takes the argmax where it is above 0. That does not fit into the memory of most machines: some structures and
planes are measured and extrapolated.

Run: python scripts/bench_restore.py --work FOLDER [--ctseg target/release/ctseg]   (NumPy, SciPy, nibabel)
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from bench_predict import measured
from bench_predict_model import NETWORK_SPACING, phantom, write_ctseg

ROOT = Path(__file__).resolve().parents[1]


def weights(widths, structures, generator):
    """Random weights of a unet3d, under ctseg's names."""
    found = {}

    def drawn(*shape, fan_in):
        return (generator.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)

    def layer(name, channels, width):
        found[f"{name}.conv.weight"] = drawn(width, channels, 3, 3, 3, fan_in=27 * channels)
        found[f"{name}.norm.gamma"], found[f"{name}.norm.beta"] = np.ones(width, np.float32), np.zeros(width, np.float32)

    for level, width in enumerate(widths):
        layer(f"encoder.{level}.0", widths[level - 1] if level else 1, width)
        layer(f"encoder.{level}.1", width, width)
    for step, width in enumerate(reversed(widths[:-1])):
        below = widths[len(widths) - 1 - step]
        found[f"up.{step}.weight"] = drawn(below, width, 2, 2, 2, fan_in=below)
        found[f"up.{step}.bias"] = np.zeros(width, np.float32)
        layer(f"decoder.{step}.0", 2 * width, width)
        layer(f"decoder.{step}.1", width, width)
    found["head.weight"] = drawn(structures, widths[0], 1, 1, 1, fan_in=widths[0])
    found["head.bias"] = np.full(structures, -2, np.float32)
    return {f"fold_0.{name}": values for name, values in found.items()}


def straightforward(shape, network_shape, structures, generator):
    """Seconds and GiB of the plain export, extrapolated from three structures and sixteen planes."""
    from scipy.ndimage import zoom

    factors, seconds = [n / m for n, m in zip(shape, network_shape)], []
    for _ in range(3):
        logits = generator.standard_normal(network_shape).astype(np.float32)
        started = time.perf_counter()
        whole = zoom(logits, factors, order=1, mode="nearest", grid_mode=True)
        seconds.append(time.perf_counter() - started)
    assert whole.shape == tuple(shape), (whole.shape, shape)
    planes = min(16, shape[2])
    some = np.repeat(whole[None, :, :, :planes], structures, axis=0)
    started = time.perf_counter()
    labels = np.where(some.max(0) > 0, some.argmax(0) + 1, 0).astype(np.uint8)
    decided = (time.perf_counter() - started) * shape[2] / planes
    assert labels.shape == (*shape[:2], planes)
    bytes_needed = 4 * structures * (np.prod(shape) + np.prod(network_shape))
    return {
        "zoom_seconds": float(np.median(seconds) * structures),
        "decide_seconds": decided,
        "gib": float(bytes_needed / 2**30),
        "measured_zooms": seconds,
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ctseg", type=Path, default=ROOT / "target/release/ctseg")
    parser.add_argument("--device", default="libtorch")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--structures", type=int, default=117)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 400])
    parser.add_argument("--spacing", type=float, nargs=3, default=[0.8, 0.8, 1.0])
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--patch", type=int, default=96)
    return parser.parse_args()


def main():
    import nibabel

    arguments = parse()
    generator = np.random.default_rng(1)
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    write_ctseg(
        work / "model", weights(arguments.widths, arguments.structures, generator), arguments.structures, "independent",
        "bce_dice", arguments.widths, arguments.patch, 1,
    )
    volume, out = work / "volume.nii.gz", work / "maps"
    hu, _ = phantom(arguments.shape, arguments.spacing, arguments.structures, 1)
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([*arguments.spacing, 1.0])), volume)
    volume_mib = hu.size * 4 / 2**20
    del hu
    shutil.rmtree(out, ignore_errors=True)
    command = [arguments.ctseg, "predict", volume, "-o", out, "--model", work / "model", "--device", arguments.device]
    command += ["--precision", "f32", "--threads", arguments.cores]
    found, _ = measured(list(map(str, command)), work / "predict.log", arguments.cores)
    sidecar = json.loads((out / "volume.json").read_text())
    steps = sidecar["cascade"]["seconds"]
    network_shape = [round(n * s / NETWORK_SPACING) for n, s in zip(arguments.shape, arguments.spacing)]
    export = straightforward(arguments.shape, network_shape, arguments.structures, generator)
    found |= {"steps": steps, "peak_memory_mb": sidecar["peak_memory_mb"], "volume_mib_f32": volume_mib}
    report = {"structures": arguments.structures, "shape": arguments.shape, "ctseg": found, "straightforward": export}
    (work / "bench_restore.json").write_text(json.dumps(report, indent=1) + "\n")
    print("| | seconds to restore | to write | memory |")
    print("|---|---|---|---|")
    print(
        f"| ctseg | {steps['restore']:.1f} | {steps['write']:.1f} "
        f"| {found['mib']['own']} MiB peak of the whole prediction; the volume in f32: {volume_mib:.0f} |"
    )
    both = export["zoom_seconds"] + export["decide_seconds"]
    print(f"| zoom and argmax (extrapolated) | {both:.1f} | | {export['gib'] * 1024:.0f} MiB of logits |")
    print(f"written to {work / 'bench_restore.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
