"""Benchmarks `ctseg predict` against nnU-Net v2's predictor with the same network, weights and volumes.

For each number of classes (including background) a network is trained briefly on a phantom and written as an nnU-Net model
(scripts/bench_predict_model.py; kept in --work for reuse), which ctseg imports. Then each program segments the volumes in
its own process on --cores cores, one after the other:

    nnunet            nnUNetPredictor.predict_from_files with one preprocessing and one export process
    nnunet-alone      predict_from_files_sequential: everything in one process
    ctseg-f32         ctseg predict with the precision of nnU-Net on CPUs
    ctseg-bf16        ctseg predict --precision bf16

No mirroring, step 0.5. Measured: seconds of the whole process and until the model is loaded (for ctseg: the time of a volume
of 8 x 8 x 8 voxels). Seconds per volume exclude loading but include the start of nnU-Net's worker processes. Memory: `own`
and `children` are the peak resident sets of the process and of any one child (VmHWM), `together` is the maximum sum of Pss
(smaps_rollup; shared pages counted once) over the process and its children, sampled every 0.2 s. Label maps are compared
voxel by voxel.

Run: "$(scripts/setup-nnunet)" scripts/bench_predict.py --work FOLDER [--ctseg target/release/ctseg] [--classes 10 118]

Prints a table and writes all measurements to FOLDER/bench_predict.json. Nothing else should run at the same time. For a
quick trial, reduce --shape, --patch, --widths and --steps.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("nnunet", "nnunet-alone", "ctseg-f32", "ctseg-bf16")

# Run with `python -c`, so that nnU-Net's worker processes do not import this script.
NNUNET = """
import json, sys, time
started = time.time()
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
model, inputs, outputs, alone, cores = json.loads(sys.argv[1])
torch.set_num_threads(cores)
predictor = nnUNetPredictor(tile_step_size=0.5, use_gaussian=True, use_mirroring=False,
                            perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
predictor.initialize_from_trained_model_folder(model, (0,), "checkpoint_final.pth")
print("loaded", time.time(), flush=True)
if alone:
    predictor.predict_from_files_sequential([[path] for path in inputs], outputs)
else:
    predictor.predict_from_files([[path] for path in inputs], outputs, num_processes_preprocessing=1,
                                 num_processes_segmentation_export=1)
"""


def kilobytes(path, key):
    for line in path.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0


def family(root):
    """The process and its descendants."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name in parentheses may contain anything.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        found.append(process)
        waiting += children.get(process, [])
    return found


class Memory(threading.Thread):
    """Samples the memory of a process and its children in MiB, until stopped."""

    def __init__(self, root):
        super().__init__(daemon=True)
        self.root, self.over = root, threading.Event()
        self.own = self.children = self.together = self.processes = 0

    def sample(self):
        together, processes = 0, family(self.root)
        for process in processes:
            folder = Path("/proc") / str(process)
            try:
                peak, share = kilobytes(folder / "status", "VmHWM:"), kilobytes(folder / "smaps_rollup", "Pss:")
            except OSError:
                continue
            together += share / 1024
            if process == self.root:
                self.own = max(self.own, peak / 1024)
            else:
                self.children = max(self.children, peak / 1024)
        self.together = max(self.together, together)
        self.processes = max(self.processes, len(processes))

    def run(self):
        while not self.over.is_set():
            started = time.monotonic()
            self.sample()
            # Sampling takes longer the more memory there is; spend at most a tenth of the time on it.
            self.over.wait(max(0.2, 9 * (time.monotonic() - started)))


def measured(command, log, cores, environment=None):
    """Runs a command on the first `cores` cores; returns its seconds, memory and output."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    started = time.time()
    with open(log, "w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
        memory = Memory(process.pid)
        memory.start()
        status = process.wait()
        ended = time.time()
        memory.over.set()
        memory.join()
    text = Path(log).read_text()
    if status != 0:
        raise SystemExit(f"{' '.join(map(str, command[:2]))} … ended with {status}:\n{text[-3000:]}")
    found = {name: round(getattr(memory, name)) for name in ("own", "children", "together")}
    return {"begun": started, "seconds": ended - started, "mib": found, "processes": memory.processes}, text


def run_nnunet(folder, inputs, out, alone, cores):
    outputs = [str(out / name_of(path)) for path in inputs]
    described = json.dumps([str(folder / "model-nnunet"), list(map(str, inputs)), outputs, alone, cores])
    # nnU-Net requires these folders but does not use them here.
    environment = {name: str(out) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment["nnUNet_def_n_proc"] = str(cores)
    found, text = measured([sys.executable, "-c", NNUNET, described], f"{out}.log", cores, environment)
    loaded = next(float(line.split()[1]) for line in text.splitlines() if line.startswith("loaded "))
    found["loaded_after"] = loaded - found["begun"]
    return found


def imported(folder, arguments):
    """Imports nnU-Net's model into ctseg."""
    model = folder / "model-imported"
    shutil.rmtree(model, ignore_errors=True)
    command = [arguments.ctseg, "import", "nnunet", folder / "model-nnunet", "-o", model]
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    return model


def run_ctseg(folder, inputs, out, precision, arguments):
    model = imported(folder, arguments)

    def predicted(volumes, to):
        command = [arguments.ctseg, "predict", *volumes, "-o", to, "--model", model, "--overwrite"]
        command += ["--device", arguments.device, "--precision", precision, "--threads", arguments.cores]
        return measured(list(map(str, command)), f"{to}.log", arguments.cores)[0]

    nothing = predicted([folder / "tiny.nii.gz"], folder / "maps-tiny")
    found = predicted(inputs, out)
    found["loaded_after"] = nothing["seconds"]
    sidecars = [json.loads((out / f"{name_of(path)}.json").read_text()) for path in inputs]
    found["sidecars"] = [{key: s[key] for key in ("device", "seconds", "notes")} | {"steps": s["cascade"]["seconds"]} for s in sidecars]
    return found


def name_of(path):
    return path.name.removesuffix(".nii.gz")


def maps(folder, inputs):
    import nibabel
    import numpy as np

    return [np.asarray(nibabel.load(folder / f"{name_of(path)}.nii.gz").dataobj).astype(np.int32) for path in inputs]


def compared(found, reference, classes):
    """Fraction of equal voxels, Dice by structure over all volumes, and the fraction of differing voxels that are next to a
    label boundary of the reference."""
    import numpy as np

    equal = total = beside = 0
    both, sizes = np.zeros(classes), np.zeros(classes)
    for one, other in zip(found, reference):
        same = one == other
        equal, total = equal + int(same.sum()), total + same.size
        border = np.zeros(other.shape, bool)
        for axis in range(3):
            low, high = np.delete(np.arange(other.shape[axis]), -1), np.arange(1, other.shape[axis])
            differs = np.take(other, low, axis) != np.take(other, high, axis)
            for places in (low, high):
                index = tuple(slice(places[0], places[-1] + 1) if a == axis else slice(None) for a in range(3))
                border[index] |= differs
        beside += int((border & ~same).sum())
        both += np.bincount(one[same], minlength=classes)
        sizes += np.bincount(one.ravel(), minlength=classes) + np.bincount(other.ravel(), minlength=classes)
    there = sizes[1:] > 0
    dice = 2 * both[1:][there] / sizes[1:][there]
    return {
        "equal": equal / total,
        "dice_mean": float(dice.mean()) if dice.size else None,
        "dice_lowest": float(dice.min()) if dice.size else None,
        "structures_found": int(there.sum()),
        "differing_beside_a_border": beside / max(1, total - equal),
    }


def prepared(arguments, classes):
    """The folder with model and volumes for this number of classes; created if missing."""
    folder = arguments.work / f"{classes}-classes"
    wanted = [folder, "--classes", classes, "--volumes", arguments.volumes, "--patch", arguments.patch]
    wanted += ["--steps", arguments.steps, "--seed", arguments.seed, "--training-patch", arguments.training_patch]
    for name in ("shape", "spacing", "widths"):
        wanted += [f"--{name}", *getattr(arguments, name)]
    wanted = list(map(str, wanted))
    asked = folder / "asked.json"
    if not asked.exists() or json.loads(asked.read_text()) != wanted:
        print(f"{classes} classes: training the network and making {arguments.volumes} volumes", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, ROOT / "scripts/bench_predict_model.py", *wanted], check=True, stdout=sys.stderr)
        asked.write_text(json.dumps(wanted))
    return folder


def of_classes(arguments, classes):
    folder = prepared(arguments, classes)
    inputs = sorted((folder / "volumes").glob("*.nii.gz"))
    rows, found = [], {}
    for variant in arguments.variants:
        out = folder / f"maps-{variant}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        program, _, how = variant.partition("-")
        print(f"{classes} classes: {variant}", file=sys.stderr)
        if program == "nnunet":
            row = run_nnunet(folder, inputs, out, how == "alone", arguments.cores)
        else:
            row = run_ctseg(folder, inputs, out, how, arguments)
        found[variant] = maps(out, inputs)
        row["seconds_per_volume"] = (row["seconds"] - row["loaded_after"]) / len(inputs)
        # Both nnU-Net variants compute the same.
        references = {"nnunet": found.get("nnunet", found.get("nnunet-alone")), "ctseg-f32": found.get("ctseg-f32")}
        for name, reference in references.items():
            if reference is not None and reference is not found[variant]:
                row[f"against_{name}"] = compared(found[variant], reference, classes)
        rows.append({"variant": variant, "classes": classes, **row})
    return {"made": json.loads((folder / "made.json").read_text()), "rows": rows}


def table(results):
    lines = [
        "| classes | | seconds per volume | until loaded | memory MiB: own | largest child | together | equal to nnunet | Dice vs ctseg-f32 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for result in results for row in result["rows"]):
        mib, against = row["mib"], row.get("against_nnunet")
        equal = f"{100 * against['equal']:.4f} %" if against else ""
        own = row.get("against_ctseg-f32")
        dice = f"{own['dice_mean']:.4f}, lowest {own['dice_lowest']:.4f}" if own and row["variant"] == "ctseg-bf16" else ""
        lines.append(
            f"| {row['classes']} | {row['variant']} | {row['seconds_per_volume']:.1f} | {row['loaded_after']:.1f} "
            f"| {mib['own']} | {mib['children']} | {mib['together']} | {equal} | {dice} |"
        )
    for result in results:
        of = {row["variant"]: row for row in result["rows"]}
        for variant in ("ctseg-f32", "ctseg-bf16"):
            if "nnunet" in of and variant in of:
                one, other = of[variant], of["nnunet"]
                time_share = one["seconds_per_volume"] / other["seconds_per_volume"]
                memory_share = one["mib"]["together"] / other["mib"]["together"]
                lines.append(
                    f"{one['classes']} classes, {variant} against nnunet: {time_share:.2f} of the time, {memory_share:.2f} of the memory"
                )
    return "\n".join(lines)


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for models, volumes, label maps and the result")
    parser.add_argument("--ctseg", type=Path, default=ROOT / "target/release/ctseg")
    parser.add_argument("--device", default="libtorch")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 118], help="including background")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--volumes", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--shape", type=int, nargs=3, default=[256, 256, 160])
    parser.add_argument("--spacing", type=float, nargs=3, default=[1.0, 1.0, 1.5])
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--training-patch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main():
    arguments = parse()
    arguments.work.mkdir(parents=True, exist_ok=True)
    results = [of_classes(arguments, classes) for classes in arguments.classes]
    said = subprocess.run([arguments.ctseg, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    report = {
        "ctseg": said,
        "versions": {name: version(name) for name in ("nnunetv2", "torch", "numpy", "scipy", "scikit-image")},
        "machine": {"processor": processor(), "cores": arguments.cores},
        "results": results,
    }
    path = arguments.work / "bench_predict.json"
    path.write_text(json.dumps(report, indent=1, default=str) + "\n")
    print(table(results))
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
