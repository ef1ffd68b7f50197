"""Trains and evaluates stages on head-and-neck CT and writes a table of Dice by structure.

The split is that of datasets/headneck.toml: 26 training patients and 6 test patients. Stage 1 is trained once and shared by
all two-stage variants. `--minutes` is the training time of each variant, without stage 1: two epochs are timed, and the
number of epochs is set to what fits, so that schedules complete. Label maps of the 6 test patients are compared on the
files' own grids.

Run: python scripts/bench_accuracy.py --data-root DATA --out FOLDER [--ctseg target/release/ctseg]
     [--variants refine,single,volume] [--minutes 12] [--stage1 MODEL]

A variant is a recipe (refine, single, volume, a .toml file), optionally followed by a colon and settings separated by plus
signs: refine:network.kind=unet2d+network.neighbours=0. Nothing else should run at the same time.
"""

import argparse
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DESCRIPTOR = ROOT / "datasets/headneck.toml"


def run(arguments, log):
    started = time.monotonic()
    with open(log, "w") as out:
        subprocess.run(list(map(str, arguments)), stdout=out, stderr=out, check=True)
    return time.monotonic() - started


def test_images(data_root):
    names = re.search(r"^test = (\[.*?\])", DESCRIPTOR.read_text(), re.M | re.S).group(1)
    return [data_root / "headneck/images" / f"{case}.nii.gz" for case in json.loads(names)]


def fit(ctseg, stage, data, model, folder, name, settings):
    sets = [argument for setting in settings for argument in ("--set", setting)]
    return run(
        [ctseg, "fit", "--stage", stage, *data, "--model", model, "--runs", folder / f"{name}-runs", *sets],
        folder / f"{name}-fit.log",
    )


def epochs_within(minutes, ctseg, stage, data, model, folder, name, settings):
    """Number of epochs that fit into the time, from the duration of the second of two epochs."""
    name = f"{name}-timing"
    timed = shutil.copytree(model, folder / f"{name}-model", dirs_exist_ok=True)
    shutil.rmtree(folder / f"{name}-runs", ignore_errors=True)
    fit(ctseg, stage, data, timed, folder, name, [*settings, "training.epochs=2"])
    (metrics,) = (folder / f"{name}-runs").glob("*/metrics.jsonl")
    first, second = (json.loads(line)["seconds"] for line in metrics.read_text().splitlines()[:2])
    return max(1, int(60 * minutes / (second - first)))


def trained(ctseg, variant, data, model, folder, name, minutes):
    stage, _, settings = variant.partition(":")
    settings = [setting for setting in settings.split("+") if setting]
    if minutes:
        epochs = epochs_within(minutes, ctseg, stage, data, model, folder, name, settings)
        settings += [f"training.epochs={epochs}", f"training.early_stopping.patience={epochs}"]
    return fit(ctseg, stage, data, model, folder, name, settings)


def evaluated(ctseg, data, model, folder, name, images):
    predictions = folder / f"{name}-predictions"
    run([ctseg, "predict", *images, "--model", model, "-o", predictions], folder / f"{name}-predict.log")
    run(
        [ctseg, "evaluate", predictions, DESCRIPTOR, *data[2:], "-o", folder / f"{name}-evaluation"],
        folder / f"{name}-evaluate.log",
    )
    return json.loads((folder / f"{name}-evaluation/summary.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ctseg", type=Path, default=ROOT / "target/release/ctseg")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", default="refine,single,volume")
    parser.add_argument("--minutes", type=float, help="training time of each variant [default: the recipe's number of epochs]")
    parser.add_argument("--stage1", type=Path, help="model folder with a trained stage 1 [default: train it]")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = ["--data", DESCRIPTOR, "--data-root", args.data_root]
    images = test_images(args.data_root)
    stage1 = args.stage1 or args.out / "stage1"
    if not args.stage1:
        seconds = run(
            [args.ctseg, "fit", "--stage", "1", *data]
            + ["--model", stage1, "--runs", args.out / "stage1-runs"],
            args.out / "stage1-fit.log",
        )
        print(f"stage 1 trained in {seconds:.0f} s", flush=True)
    table = args.out / "table.json"
    rows = json.loads(table.read_text()) if table.exists() else []
    for variant in args.variants.split(","):
        name = re.sub(r"[^\w.]+", "-", variant)
        model = args.out / f"{name}-model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(stage1, model)
        seconds = trained(args.ctseg, variant, data, model, args.out, name, args.minutes)
        summary = evaluated(args.ctseg, data, model, args.out, name, images)
        dice = {structure: values["dice"] for structure, values in summary["per_structure"].items()}
        rows.append({"variant": variant, "seconds": seconds, "dice": dice})
        print(json.dumps(rows[-1]), flush=True)
        table.write_text(json.dumps(rows, indent=1) + "\n")
    structures = list(rows[0]["dice"])
    print("| variant | training | " + " | ".join(structures) + " | mean |")
    print("|---" * (len(structures) + 3) + "|")
    for row in rows:
        values = [row["dice"][structure] for structure in structures]
        cells = " | ".join(f"{value:.3f}" for value in [*values, sum(values) / len(values)])
        print(f"| {row['variant']} | {row['seconds']:.0f} s | {cells} |")


if __name__ == "__main__":
    main()
