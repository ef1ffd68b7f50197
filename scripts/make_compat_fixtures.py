"""Makes tests/data/compat: files of an older ctseg, which every later version must read (tests/end_to_end/compat.rs).

The committed files were made by the release build (flex) of commit b35e998, before the code was split into crates.
Do not regenerate them: with files of the current version the test would prove nothing. For a new format, add another
folder.

Run: python scripts/make_compat_fixtures.py target/release/ctseg NEW_FOLDER

Everything is made in /tmp/ctseg-fixture, so that this is the only absolute path in the files;
tests/end_to_end/compat.rs replaces it. Host and user names are replaced. Needs Python 3.8 or later, and no packages.
"""

import gzip
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

PLACE = Path("/tmp/ctseg-fixture")
SHAPE = (26, 24, 20)  # x, y, z
SPACING_MM = 6.0
STRUCTURES = {"liver": 1, "spleen": 300}
DESCRIPTOR = """\
name = "balls"
images = "images/*.nii.gz"
labels = "labels/{case}.nii.gz"
test = ["case_4"]

[structures]
liver = 1
spleen = 300
"""
EXACT = ["--device", "flex", "--precision", "f32", "--threads", "1"]
# Host names in written files.
HOST = re.compile(r'("(?:ctseg\.)?host": ?)"[^"]*"')


def balls(case):
    """HU and labels of a body with a large and a small ball inside; x varies fastest."""
    noise, hu, labels = 12345 + case, [], []
    centres = [(8.5 + case % 3, 11.0 + case % 2, 9.0), (17.5 - case % 2, 12.5, 10.0 + case % 3)]
    for z in range(SHAPE[2]):
        for y in range(SHAPE[1]):
            for x in range(SHAPE[0]):
                noise = (1103515245 * noise + 12345) % 2**31
                near = [sum((a - b) ** 2 for a, b in zip((x, y, z), centre)) ** 0.5 for centre in centres]
                inside = ((x - 12.5) / 12) ** 2 + ((y - 11.5) / 10.5) ** 2 < 1
                label = 1 if near[0] < 5.2 else 300 if near[1] < 3.4 else 0
                value = {1: 120, 300: 220}.get(label, 0 if inside else -1000)
                hu.append(value + (noise >> 16) % 3 * 10 if inside else -1000)
                labels.append(label if inside else 0)
    return hu, labels


def write_nifti(path, values, kind):
    """Writes NIfTI-1 with 16 bits; oblique about z, so that the affine has no round values."""
    code, letter = {"i16": (4, "h"), "u16": (512, "H")}[kind]
    cos, sin = 0.98 * SPACING_MM, 0.199 * SPACING_MM
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *SHAPE, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, 16)
    struct.pack_into("<8f", header, 76, 1, SPACING_MM, SPACING_MM, SPACING_MM, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = 2  # mm
    header[148:154] = b"a ball"
    struct.pack_into("<2h", header, 252, 0, 1)  # sform alone
    rows = (-cos, sin, 0, 70, -sin, -cos, 0, 65, 0, 0, SPACING_MM, -40)
    struct.pack_into("<12f", header, 280, *rows)
    header[344:348] = b"n+1\0"
    data = struct.pack(f"<{len(values)}{letter}", *values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(header) + data, mtime=0))


def make_data():
    for case in range(5):
        hu, labels = balls(case)
        write_nifti(PLACE / f"data/images/case_{case}.nii.gz", hu, "i16")
        write_nifti(PLACE / f"data/labels/case_{case}.nii.gz", labels, "u16")
    (PLACE / "data/dataset.toml").write_text(DESCRIPTOR)


def settings(*values):
    return [word for value in values for word in ("--set", value)]


STAGE_1 = settings("network.widths=[4, 8]", "spacing_mm=[12.0, 12.0, 12.0]", "folds=2", "training.patch_size=[16, 16]",
                   "roi.margin_mm=[12.0, 12.0, 12.0]", "training.optimiser.learning_rate=0.02")
STAGE_2 = settings("network.widths=[4, 8]", "spacing_mm=[6.0, 6.0, 6.0]", "folds=2", "training.patch_size=[16, 16, 16]",
                   "training.patches_per_epoch=16", "training.optimiser.learning_rate=0.02",
                   "training.weight_average=0.9", "training.augmentation.enabled=false")
# Random number generators, weight average, learning rate schedule: a checkpoint contains the state of all of these.
RANDOM = settings("training.augmentation.enabled=true", "network.dropout=0.3", "training.weight_average=0.95",
                  "training.plateau.patience=0", "training.batch_size=2", "training.early_stopping.patience=100",
                  "training.keep=last", "training.epochs=8")


def environment(**more):
    """An environment without this machine's settings, jobs and users."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(PLACE), "USER": "someone", "TZ": "UTC", **more}


def run(ctseg, *arguments, code=0, **more):
    command = [ctseg, *arguments]
    done = subprocess.run(command, cwd=PLACE, env=environment(**more), capture_output=True, text=True)
    assert done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
    print(done.stdout + done.stderr)


def fit(*arguments):
    return ["fit", "--data", "data/dataset.toml", "--no-out-of-fold", *arguments, *EXACT]


def interrupt_in_an_epoch(ctseg):
    """Makes a run that SIGTERM interrupts within an epoch, after the first ones."""
    command = fit("--stage", "1", "--fold", "0", "--runs", "resumable/runs", "--model", "resumable/model",
                  *STAGE_1, *RANDOM)
    for _ in range(20):
        shutil.rmtree(PLACE / "resumable", ignore_errors=True)
        child = subprocess.Popen([ctseg, *command], cwd=PLACE, env=environment())
        while child.poll() is None and len(lines_of("resumable/runs/*/metrics.jsonl")) < 4:
            time.sleep(0.001)
        child.send_signal(signal.SIGTERM)
        if child.wait() == 75:
            checkpoint = only("resumable/runs/*/checkpoints/fold_0/last.safetensors").read_bytes()
            if re.search(rb'"within\\+":\{', checkpoint):
                return
    sys.exit("no interruption fell within an epoch")


def only(pattern):
    (path,) = PLACE.glob(pattern)
    return path


def lines_of(pattern):
    return [line for path in PLACE.glob(pattern) for line in path.read_text().splitlines()]


def make(ctseg):
    make_data()
    run(ctseg, *fit("--stage", "1", "--runs", "tracked/runs", "--model", "tracked/model", "--epochs", "12", *STAGE_1),
        MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_EXPERIMENT_NAME="compat")
    # The copy gets another stage; the original must stay the model in the tracking events.
    shutil.copytree(PLACE / "tracked/model", PLACE / "model")
    run(ctseg, *fit("--stage", "2", "--runs", "scratch", "--epochs", "50", *STAGE_2))
    os.utime(PLACE / "data/images/case_4.nii.gz", (1_700_000_000, 1_700_000_000))
    run(ctseg, "predict", "data/images/case_4.nii.gz", "-o", "out", "--claim", "claims", "--split", *EXACT)
    interrupt_in_an_epoch(ctseg)
    # The expected result of resuming; the kept copy is not resumed.
    shutil.copytree(PLACE / "resumable", PLACE / "kept")
    run(ctseg, "fit", "--resume", str(only("resumable/runs/*")), *EXACT)
    shutil.move(PLACE / "resumable/model", PLACE / "resumed")
    shutil.rmtree(PLACE / "resumable")
    shutil.move(PLACE / "kept", PLACE / "resumable")
    # Remove what no test reads.
    for path in ["scratch", only("resumable/runs/*/plots"), only("tracked/runs/*/checkpoints")]:
        shutil.rmtree(PLACE / path)
    only("tracked/runs/*/plots/loss.png").unlink()


def without_names():
    for path in PLACE.rglob("*"):
        if path.suffix in {".json", ".jsonl"}:
            path.write_text(HOST.sub(r'\1"machine"', path.read_text()))


def main():
    ctseg, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    assert not folder.exists(), f"{folder} already exists"
    shutil.rmtree(PLACE, ignore_errors=True)
    make(str(ctseg))
    without_names()
    shutil.copytree(PLACE, folder)
    shutil.rmtree(PLACE)


if __name__ == "__main__":
    main()
