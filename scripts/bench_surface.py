"""Benchmarks `ctseg evaluate` against google-deepmind/surface-distance: time and peak memory of all metrics of two label
maps of 512 × 512 × 300 voxels with 20 structures.

The reference contains organ-sized ellipsoids with wavy surfaces (with --large, one nearly fills the volume); in the
prediction they are shifted and have other waves. Both programs read the same two NIfTI files. The peer follows its README:
nibabel, a mask per structure, compute_surface_distances, then Hausdorff, HD95, average distances and surface Dice, and Dice;
it computes no lesion metrics or intervals and writes no files. Each runs in its own process on the same cores; times are
wall times of whole processes, memory is the peak resident set. With --cases, ctseg also evaluates that many copies of the
pair. The script fails if the results differ by more than 2e-6.

Run: python -m venv venv && venv/bin/pip install -r scripts/golden/surface.txt
     cargo build --release && venv/bin/python scripts/bench_surface.py [--binary target/release/ctseg] [--cores 2]
     [--rounds 3] [--large] [--cases 200]
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHAPE, SPACING_MM, STRUCTURES, TOLERANCE_MM = (512, 512, 300), (0.8, 0.8, 1.5), 20, 2.0
FIGURES = ["dice", "surface_dice", "hd95_mm", "assd_mm", "hausdorff_mm"]


def label_map(random, centres, radii, moved_mm):
    """Ellipsoids with wavy surfaces; later ones overwrite earlier ones."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, (centre, radius) in enumerate(zip(centres, radii), 1):
        centre = centre + random.normal(0, moved_mm, 3)
        wave, phase = random.uniform(0.05, 0.15, 3), random.uniform(0, 6.28, 3)
        low = [max(0, int((c - 1.3 * r) / s)) for c, r, s in zip(centre, radius, SPACING_MM)]
        high = [min(n, int((c + 1.3 * r) / s) + 2) for c, r, s, n in zip(centre, radius, SPACING_MM, SHAPE)]
        axes = [np.arange(a, b, dtype=np.float32) * s for a, b, s in zip(low, high, SPACING_MM)]
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        ripple = 1 + 0.1 * np.sin(wave[0] * x + phase[0]) * np.sin(wave[1] * y + phase[1]) * np.sin(wave[2] * z + phase[2])
        inside = sum(((v - c) / r) ** 2 for v, c, r in zip((x, y, z), centre, radius)) < ripple
        box = tuple(slice(a, b) for a, b in zip(low, high))
        labels[box][inside] = label
    return labels


def make(folder, large):
    random = np.random.default_rng(0)
    extent = np.array(SHAPE) * SPACING_MM
    radii = [random.uniform(12, 45, 3) for _ in range(STRUCTURES)]
    centres = [random.uniform(1.1 * r, extent - 1.1 * r) for r in radii]
    if large:
        radii[0], centres[0] = 0.46 * extent, extent / 2
    for name, moved_mm in [("reference", 0.0), ("prediction", 1.5)]:
        labels = label_map(random, centres, radii, moved_mm)
        image = nibabel.Nifti1Image(labels, np.diag([*SPACING_MM, 1]))
        nibabel.save(image, folder / f"{name}.nii.gz")
    return int(len(np.unique(labels))) - 1


def peer(folder):
    """Computes the metrics with surface-distance; prints a line of JSON per structure."""
    import surface_distance

    images = [nibabel.load(folder / f"{name}.nii.gz") for name in ("reference", "prediction")]
    spacing = images[0].header.get_zooms()[:3]
    reference, prediction = (np.asarray(image.dataobj) for image in images)
    for label in range(1, STRUCTURES + 1):
        masks = reference == label, prediction == label
        found = surface_distance.compute_surface_distances(*masks, [float(side) for side in spacing])
        sides = [("distances_gt_to_pred", "surfel_areas_gt"), ("distances_pred_to_gt", "surfel_areas_pred")]
        figures = {
            "dice": surface_distance.compute_dice_coefficient(*masks),
            "surface_dice": surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM),
            "hd95_mm": surface_distance.compute_robust_hausdorff(found, 95),
            "hausdorff_mm": surface_distance.compute_robust_hausdorff(found, 100),
            "assd_mm": sum(np.sum(found[d] * found[a]) for d, a in sides) / sum(np.sum(found[a]) for _, a in sides),
        }
        print(json.dumps({name: float(value) for name, value in figures.items()}), flush=True)


def measured(command, log):
    """Seconds, peak MiB and cores in use of a process."""
    with open(log, "w") as out, open(log.with_suffix(".err"), "w") as problems:
        started = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=problems)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{command[0]} failed: {log.with_suffix('.err').read_text()[-2000:]}")
    seconds = time.perf_counter() - started
    return seconds, usage.ru_maxrss / 1024, (usage.ru_utime + usage.ru_stime) / seconds


def many(args, folder):
    """Evaluates many copies of the pair: seconds, MiB and cores in use."""
    for name in ("prediction", "reference"):
        (folder / f"{name}s").mkdir()
        for case in range(args.cases):
            os.link(folder / f"{name}.nii.gz", folder / f"{name}s" / f"case_{case:03}.nii.gz")
    return measured([args.binary.resolve(), "evaluate", folder / "predictions", folder / "references"], folder / "many.log")


def differences(folder):
    ours = list(csv.DictReader(open(folder / "out/metrics.csv")))
    theirs = [json.loads(line) for line in open(folder / "peer.log")]
    assert len(ours) == len(theirs) == STRUCTURES, (len(ours), len(theirs))
    return {name: max(abs(float(a[name]) - b[name]) for a, b in zip(ours, theirs)) for name in FIGURES}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/ctseg")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="one structure nearly fills the volume")
    parser.add_argument("--cases", type=int, default=0, help="number of copies of the pair to evaluate with ctseg")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        return print(make(args.make, args.large))
    if args.peer:
        return peer(args.peer)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # In its own process: on Linux, a child's peak resident set includes that of its parent at the fork.
        made = [sys.executable, __file__, "--make", folder] + ["--large"] * args.large
        found = int(subprocess.run(made, check=True, capture_output=True, text=True).stdout)
        ours = [args.binary.resolve(), "evaluate", folder / "prediction.nii.gz", folder / "reference.nii.gz"]
        ours += ["-o", folder / "out", "--tolerance", TOLERANCE_MM]
        rounds = []
        for _ in range(args.rounds):
            own = measured(ours, folder / "ctseg.log")
            other = measured([sys.executable, __file__, "--peer", folder], folder / "peer.log")
            rounds.append((own, other))
            print(f"ctseg {own[0]:.2f} s, {own[1]:.0f} MiB; surface-distance {other[0]:.1f} s, {other[1]:.0f} MiB", flush=True)
        apart = differences(folder)
        if args.cases:
            seconds, mib, cores = many(args, folder)
            print(f"{args.cases} cases: {seconds:.1f} s, {mib:.0f} MiB, {cores:.2f} of {args.cores} cores in use")
    middle = lambda which, what: statistics.median(found[which][what] for found in rounds)
    print(f"{found} structures, {args.cores} cores; largest differences: {apart}")
    print("| | seconds | MiB |\n|---|---|---|")
    print(f"| ctseg evaluate | {middle(0, 0):.2f} | {middle(0, 1):.0f} |")
    print(f"| surface-distance | {middle(1, 0):.1f} | {middle(1, 1):.0f} |")
    print(f"| ratio | {middle(0, 0) / middle(1, 0):.3f} | {middle(0, 1) / middle(1, 1):.3f} |")
    if max(apart.values()) > 2e-6:
        sys.exit("the results differ")


if __name__ == "__main__":
    main()
