"""Measures how much the cache of preprocessed cases speeds up training: seconds of an epoch that reads every case once,
without a cache, with an empty and with a full cache, and seconds of the whole command.

The cases are large: a CT resampled to 512 × 512 × 300 voxels with 12 HU of noise, gzip-compressed int16, and its label map.
Training is short (--patches slices per epoch), so that reading and preprocessing dominate. Nothing is kept in memory between
epochs. The three states alternate within each round; the page cache is not controlled.

Needs the Python environment of the references (scripts/setup-references prints it).

Run: cargo build --release && "$(scripts/setup-references)" scripts/bench_case_cache.py CT LABELS [--cases 6] [--rounds 3]
     [--binary target/release/ctseg] [--device flex] [--json]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import zoom

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (512, 512, 300)
STATES = ("no cache", "empty cache", "full cache")


def enlarged(array, order):
    return zoom(array, [to / of for to, of in zip(SHAPE, array.shape)], order=order)


def make_cases(folder, ct, labels, count):
    """A dataset of `count` cases in the layout images/ + labels/."""
    ct, labels = nibabel.load(ct), nibabel.load(labels)
    hu = enlarged(np.nan_to_num(np.asarray(ct.dataobj, np.float32)), 1)
    known = np.asarray(labels.dataobj).astype(np.uint8)
    known = enlarged(np.where(known <= 5, known, 0).astype(np.uint8), 0)
    affine = ct.affine @ np.diag([*(of / to for to, of in zip(SHAPE, ct.shape)), 1.0])
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for case in range(count):
        noise = np.random.default_rng(case).normal(0, 12, SHAPE).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image((hu + noise).astype(np.int16), affine), folder / f"images/ct{case}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(known, affine), folder / f"labels/ct{case}.nii.gz")
    return folder


def trained(arguments, data, cache):
    """Seconds of the epoch and of the command, and the log lines about the cache."""
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        command = [arguments.binary, "fit", "--stage", "single", "--data", data, "--device", arguments.device]
        command += ["--epochs", "1", "--no-out-of-fold", "--no-mlflow", "--json"]
        settings = {
            "folds": 3,
            "network.widths": "[4, 8]",
            "training.batch_size": 2,
            "training.patch_size": "[32, 32]",
            "training.patches_per_epoch": arguments.patches,
            "training.watched_cases": 0,
            "training.cache_mb": 0,
            "training.augmentation.enabled": "false",
        }
        command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        if cache:
            command += ["--case-cache", cache]
        started = time.monotonic()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        seconds = time.monotonic() - started
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
        run = Path(folder) / json.loads(done.stdout)["run"]
        epoch = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        said = [line for line in done.stderr.splitlines() if line.startswith("case cache")]
        return epoch["seconds"], seconds, said


def measured(arguments, data):
    found = {state: [] for state in STATES}
    for _ in range(arguments.rounds):
        cache = Path(arguments.work) / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        for state in STATES:
            found[state].append(trained(arguments, data, None if state == "no cache" else cache))
            print(f"{state}: epoch {found[state][-1][0]:.1f} s, command {found[state][-1][1]:.1f} s", file=sys.stderr)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("ct")
    parser.add_argument("labels")
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patches", type=int, default=24)
    parser.add_argument("--binary", type=os.path.abspath, default=ROOT / "target/release/ctseg")
    parser.add_argument("--device", default="flex")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        arguments.work = work
        data = make_cases(Path(work) / "data", arguments.ct, arguments.labels, arguments.cases)
        found = measured(arguments, data)
    median = {s: [statistics.median(x[i] for x in found[s]) for i in (0, 1)] for s in STATES}
    if arguments.json:
        print(json.dumps({s: {"epoch": median[s][0], "command": median[s][1], "said": found[s][-1][2]} for s in STATES}))
        return
    print("| | epoch, s | relative to no cache | command, s |\n|---|---|---|---|")
    for state in STATES:
        epoch, command = median[state]
        print(f"| {state} | {epoch:.1f} | {epoch / median['no cache'][0]:.2f} | {command:.1f} |")


if __name__ == "__main__":
    main()
