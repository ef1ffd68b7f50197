#!/usr/bin/env python3
"""Measures how much six hostile files slow down `ctseg predict` on a batch of 54 good volumes.

    bench_hostile_batch.py --bin CTSEG --model MODEL [--rounds 5]

In each round the 54 volumes are predicted alone and together with the six hostile files, in alternating order, without and
with --max-ram. Prints the median of the paired ratios of wall times. Exit code 1: a label map is missing, an exit code is
wrong, a second call on the same output folder ends differently, or a ratio is above 1.1.
"""

import argparse
import gzip
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOOD = 54
ADDRESS_SPACE = 4 << 30


def nifti(shape, spacing_mm, voxels=None):
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", head, 70, 4, 16)
    struct.pack_into("<8f", head, 76, 1, *[spacing_mm] * 3, 1, 1, 1, 1)
    struct.pack_into("<ff", head, 108, 352, 1)
    head[123] = 2
    struct.pack_into("<hh", head, 252, 0, 1)
    for row in range(3):
        struct.pack_into("<4f", head, 280 + 16 * row, *[spacing_mm if row == column else 0 for column in range(4)])
    head[344:348] = b"n+1\0"
    count = shape[0] * shape[1] * shape[2]
    return bytes(head) + (struct.pack("<h", -1000) * count if voxels is None else voxels)


def body(side, case):
    """A ball of soft tissue in air, different for each case."""
    radius = side * (0.3 + 0.002 * case)
    values = []
    for index in range(side**3):
        x, y, z = index % side, index // side % side, index // side**2
        inside = sum((a - side / 2) ** 2 for a in (x, y, z)) < radius**2
        values.append(40 + index * 7 % 11 if inside else -1000)
    return struct.pack(f"<{side ** 3}h", *values)


def make(folder, side):
    for name in ("alone", "together"):
        (folder / name).mkdir()
    for case in range(GOOD):
        data = gzip.compress(nifti([side] * 3, 4.0, body(side, case)), 1)
        for name in ("alone", "together"):
            (folder / name / f"v{case:02}.nii.gz").write_bytes(data)
    hostile = folder / "together"
    (hostile / "a_empty.nii.gz").write_bytes(b"")
    (hostile / "a_text.nii").write_bytes(b"hello")
    (hostile / "a_truncated.nii.gz").write_bytes(gzip.compress(nifti([16, 16, 12], 9.0))[:-9])
    (hostile / "a_shape.nii").write_bytes(nifti([30000] * 3, 1.0, b""))
    (hostile / "a_link.nii.gz").symlink_to("/nowhere")
    # 480 bytes that expand to gigabytes on the network's grid.
    (hostile / "a_tiny.nii").write_bytes(nifti([4] * 3, 700.0))


def predict(options, folder, name, out, more):
    command = [options.bin, "predict", folder / name, "-o", out, "--model", options.model, *more]
    started = time.monotonic()
    # A machine with much memory would segment the volume of 10 GB.
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, preexec_fn=limit)
    seconds = time.monotonic() - started
    expected = 3 if name == "together" else 0
    label_maps = len(list(out.glob("*.nii.gz"))) + len(list(out.glob("*.nii")))
    if (done.returncode, label_maps) != (expected, GOOD):
        sys.exit(f"{name} {more}: exit {done.returncode}, {label_maps} label maps\n{done.stderr[-3000:]}")
    return seconds


def paired(options, folder, more):
    ratios = []
    for number in range(options.rounds):
        took = {}
        with tempfile.TemporaryDirectory(dir=folder) as outputs:
            for name in ("alone", "together") if number % 2 else ("together", "alone"):
                took[name] = predict(options, folder, name, Path(outputs) / name, more)
            predict(options, folder, "together", Path(outputs) / "together", more)
        ratios.append(took["together"] / took["alone"])
        print(f"{' '.join(more) or 'no limit'}: {took['alone']:.2f} s alone, {took['together']:.2f} s together", flush=True)
    median = statistics.median(ratios)
    print(f"{' '.join(more) or 'no limit'}: median ratio {median:.3f} of {len(ratios)} rounds")
    return median


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=48, help="voxels of 4 mm along each axis [%(default)s]")
    options = parser.parse_args()
    options.bin, options.model = options.bin.resolve(), options.model.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, options.side)
        medians = [paired(options, folder, more) for more in ([], ["--max-ram", "2G"])]
    return int(max(medians) > 1.1)


if __name__ == "__main__":
    sys.exit(main())
