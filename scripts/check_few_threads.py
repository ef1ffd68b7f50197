#!/usr/bin/env python3
"""Runs predict and fit with few or no threads available (`ulimit -u`), and checks that each run ends cleanly.

Needs root and setpriv (util-linux): the limit does not apply to root and counts all processes of a user, so the runs use a
user without other processes. Opt-in; not part of the test suite.

    scripts/check_few_threads.py BINARY [--rounds 50]

Each round runs predict with every limit from 2 to 10 processes, and fit with one of them in turn. A run is clean if it ends
in time with exit code 0, or with 1 or 3 and a message about threads; if it does not panic; and if SIGTERM ends it. Prints a
table of exit codes and the longest run for each limit. Exit code 1 if a run was not clean.
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TINY = REPOSITORY / "tests/golden/nnunet"
USER = 64997
LIMITS = range(2, 11)
SECONDS = 60
FIT = (
    "fit --stage 1 --data data --epochs 1 --set network.widths=[4,8] --set spacing_mm=[14.0,14.0,14.0] --set folds=2"
).split()


def nifti(shape, spacing, voxel):
    """A NIfTI-1 file of int16 whose voxels are `voxel(x, y, z)`."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, *spacing, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    header[123] = 2
    struct.pack_into("<hh", header, 252, 0, 1)
    for row in range(3):
        line = [0.0] * 4
        line[row] = spacing[row]
        struct.pack_into("<4f", header, 280 + 16 * row, *line)
    header[344:348] = b"n+1\0"
    nx, ny, nz = shape
    values = [voxel(x, y, z) for z in range(nz) for y in range(ny) for x in range(nx)]
    return gzip.compress(bytes(header) + struct.pack(f"<{len(values)}h", *values), 1)


def dataset(folder, cases=4):
    """Balls of soft tissue in air, with their labels."""
    shape, spacing = (24, 24, 12), (8.0, 8.0, 8.0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for case in range(cases):
        def inside(x, y, z, case=case):
            return (x - 10 - case) ** 2 + (y - 12) ** 2 + (2 * z - 12) ** 2 < 49

        image = nifti(shape, spacing, lambda *at: 60 if inside(*at) else -1000)
        labels = nifti(shape, spacing, lambda *at: int(inside(*at)))
        (folder / f"images/c{case}.nii.gz").write_bytes(image)
        (folder / f"labels/c{case}.nii.gz").write_bytes(labels)


def prepared(binary, folder):
    """Prepares a copy of the binary, a model, volumes and a dataset, readable and writable by any user."""
    shutil.copy(binary, folder / "ctseg")
    command = [folder / "ctseg", "import", "nnunet", TINY / "Dataset900_tiny", "-o", folder / "model"]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "volumes").mkdir()
    for index in range(3):
        shutil.copy(TINY / "case_0000.nii.gz", folder / f"volumes/x{index}.nii.gz")
    dataset(folder / "data")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777 if path.is_dir() or path.name == "ctseg" else 0o666)


def limited(folder, limit, arguments, stop_after=None):
    """Runs ctseg; returns output, exit code and seconds. `stop_after`: seconds until SIGTERM."""
    shell = f'ulimit -u {limit}; cd "{folder}"; exec ./ctseg "$@"'
    command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "bash", "-c", shell, "ctseg", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if stop_after is not None:
        time.sleep(stop_after)
        process.send_signal(signal.SIGTERM)
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        return said.decode(errors="replace"), "hang", time.monotonic() - started
    return said.decode(errors="replace"), process.returncode, time.monotonic() - started


def fault(said, code, stopped):
    """The reason why a run was not clean, or None."""
    if code == "hang":
        return f"still running after {SECONDS} s"
    if "panicked" in said:
        return "a panic"
    allowed = (0, 1, 3, 75, -signal.SIGTERM) if stopped else (0, 1, 3)
    if code not in allowed:
        return f"exit code {code}"
    if code in (1, 3) and "thread" not in said:
        return "no message about threads"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        sys.exit("needs root and setpriv: the limit does not apply to root and counts all processes of a user")
    ends, longest, faults = collections.Counter(), collections.Counter(), []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepared(arguments.binary.resolve(), folder)
        for round_number in range(arguments.rounds):
            runs = [("predict", limit, None) for limit in LIMITS]
            runs.append(("fit", LIMITS[round_number % len(LIMITS)], None))
            # Stopped at different times.
            runs.append(("predict", LIMITS[round_number % len(LIMITS)], 0.05 * (round_number % 8)))
            for what, limit, stop_after in runs:
                out = f"out{round_number}-{limit}"
                predict = ["predict", "volumes", "-o", out, "--model", "model", "--overwrite"]
                fit = [*FIT, "--model", f"m{round_number}", "--runs", f"runs{round_number}"]
                said, code, seconds = limited(folder, limit, predict if what == "predict" else fit, stop_after)
                key = (f"{what}, stopped" if stop_after is not None else what, limit)
                ends[(*key, code)] += 1
                longest[key] = max(longest[key], seconds)
                wrong = fault(said, code, stop_after is not None)
                if wrong:
                    faults.append(f"round {round_number}: {what}, ulimit -u {limit}: {wrong}\n{said[:500]}")
            for path in [*folder.glob("out*"), *folder.glob("runs*"), *folder.glob("m[0-9]*")]:
                shutil.rmtree(path, ignore_errors=True)
    print("| command | ulimit -u | exit codes (times) | longest, s |\n|---|---|---|---|")
    for key in sorted(longest):
        codes = sorted((str(code), count) for (*of, code), count in ends.items() if tuple(of) == key)
        shown = ", ".join(f"{code} ({count})" for code, count in codes)
        print(f"| {key[0]} | {key[1]} | {shown} | {longest[key]:.1f} |")
    print(json.dumps({"runs": sum(ends.values()), "faults": len(faults)}))
    for wrong in faults:
        print(wrong, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
