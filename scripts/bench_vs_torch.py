"""Benchmarks the same U-Nets in PyTorch and in ctseg; prints the ratios and writes a JSON file.

Networks (1 input channel, 5 structures, two convolutions per level with kernel size 3 and no bias):

- unet2d: 32-64-128-256-512 at 256 x 256, batch 4 and 16; BatchNorm, ReLU, MaxPool 2
- unet3d: 32-64-128-256 at 96 x 96 x 96, batch 2; InstanceNorm (affine), LeakyReLU 0.01, stride-2 convolutions,
  as nnU-Net's PlainConvUNet

both with transposed convolutions (kernel size 2, with bias), concatenated skips and a 1x1 head with bias. `training`
is forward, BCE with logits plus soft batch Dice, backward, clip_grad_norm_(12) and Adam(lr=1e-3); `forward` is
eval() under inference_mode. bf16 is autocast. PyTorch is eager, with its defaults for Adam and TF32, in
contiguous and channels-last layout; the faster layout is the peer.

Each measurement runs in its own process, so that peak memory (of the process; on a GPU: allocated there) can be
compared. The round with the lowest median step time counts. A ratio above 1 means that ctseg is faster, or needs
less memory.

Run: python scripts/bench_vs_torch.py [--ctseg target/release/ctseg] [--device cuda] [--cases unet2d-b4]
     python scripts/bench_vs_torch.py --dry     (tests this script on tiny networks with a fake ctseg)

The PyTorch installed by scripts/setup-libtorch.sh has its interpreter in ~/.cache/ctseg/libtorch-2.11.0/bin/python.
Nothing else should run at the same time: OpenMP's threads wait for each other.
"""

import argparse
import datetime
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STRUCTURES = 5
CASES = {
    "unet2d-b4": {"network": "unet2d", "widths": [32, 64, 128, 256, 512], "size": [256, 256], "batch": 4},
    "unet2d-b16": {"network": "unet2d", "widths": [32, 64, 128, 256, 512], "size": [256, 256], "batch": 16},
    "unet3d-b2": {"network": "unet3d", "widths": [32, 64, 128, 256], "size": [96, 96, 96], "batch": 2},
}
TINY_CASES = {
    "tiny2d": {"network": "unet2d", "widths": [4, 8], "size": [16, 16], "batch": 2},
    "tiny3d": {"network": "unet3d", "widths": [4, 8], "size": [8, 8, 8], "batch": 1},
}
LAYOUTS = ["contiguous", "channels_last"]
# Fields of `ctseg bench --json`.
FIELDS = ["engine", "device", "precision", "network", "mode", "threads", "items_per_second", "voxels_per_second"]
FIELDS += ["seconds_per_step_median", "peak_memory_mb"]


# PyTorch's networks and timing: only in processes started with --worker.


def build(network, widths):
    from torch import cat, nn

    flat = network == "unet2d"
    conv, up = (nn.Conv2d, nn.ConvTranspose2d) if flat else (nn.Conv3d, nn.ConvTranspose3d)

    def once(inputs, outputs, stride=1):
        norm = nn.BatchNorm2d(outputs) if flat else nn.InstanceNorm3d(outputs, eps=1e-5, affine=True)
        active = nn.ReLU(inplace=True) if flat else nn.LeakyReLU(0.01, inplace=True)
        return [conv(inputs, outputs, 3, stride=stride, padding=1, bias=False), norm, active]

    def level(inputs, outputs, down):
        first = [nn.MaxPool2d(2)] if flat and down else []
        stride = 2 if down and not flat else 1
        return nn.Sequential(*first, *once(inputs, outputs, stride), *once(outputs, outputs))

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            pairs = list(zip(widths, widths[1:]))
            self.encoder = nn.ModuleList([level(1, widths[0], False)] + [level(a, b, True) for a, b in pairs])
            self.ups = nn.ModuleList(up(b, a, 2, stride=2) for a, b in reversed(pairs))
            self.decoder = nn.ModuleList(level(2 * a, a, False) for a, _ in reversed(pairs))
            self.head = conv(widths[0], STRUCTURES, 1)

        def forward(self, x):
            skips = []
            for block in self.encoder:
                x = block(x)
                skips.append(x)
            skips.pop()
            for rise, block in zip(self.ups, self.decoder):
                x = block(cat([skips.pop(), rise(x)], 1))
            return self.head(x)

    return UNet()


def loss_of(logits, target):
    from torch.nn.functional import binary_cross_entropy_with_logits

    probability = logits.sigmoid()
    axes = [axis for axis in range(logits.dim()) if axis != 1]
    overlap = (probability * target).sum(axes)
    dice = (2 * overlap + 1) / (probability.sum(axes) + target.sum(axes) + 1)
    return binary_cross_entropy_with_logits(logits, target) + 1 - dice.mean()


def stepper(job):
    """Returns a function that runs one step of `job`."""
    import torch

    torch.manual_seed(0)
    device = job["device"]
    layout = torch.contiguous_format
    if job["layout"] == "channels_last":
        layout = torch.channels_last if len(job["size"]) == 2 else torch.channels_last_3d
    network = build(job["network"], job["widths"]).to(device, memory_format=layout)
    images = torch.randn([job["batch"], 1, *job["size"]]).to(device, memory_format=layout)
    target = (torch.rand([job["batch"], STRUCTURES, *job["size"]]) > 0.9).float().to(device, memory_format=layout)
    autocast = torch.autocast(device, torch.bfloat16, enabled=job["precision"] == "bf16")

    def forward():
        with torch.inference_mode(), autocast:
            network(images)

    def training():
        optimiser.zero_grad(set_to_none=True)
        with autocast:
            logits = network(images)
        loss_of(logits.float(), target).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimiser.step()

    if job["mode"] == "forward":
        network.eval()
        return forward
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    return training


def work(job):
    import torch

    torch.set_num_threads(job["threads"])
    torch.backends.cudnn.benchmark = True
    wait = torch.cuda.synchronize if job["device"] == "cuda" else lambda: None
    step = stepper(job)

    def timed():
        start = time.perf_counter()
        step()
        wait()
        return time.perf_counter() - start

    for _ in range(3):  # warm-up; shorter if a step takes long
        if timed() > job["seconds"]:
            break
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < job["seconds"]:
        times.append(timed())
    median = statistics.median(times)
    if job["device"] == "cuda":
        peak_mb = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "engine": f"torch {torch.__version__}",
        **{key: job[key] for key in ("device", "precision", "network", "mode", "threads", "layout")},
        "items_per_second": job["batch"] / median,
        "voxels_per_second": job["batch"] * math.prod(job["size"]) / median,
        "seconds_per_step_median": median,
        "steps": len(times),
        "peak_memory_mb": peak_mb,
    }


# The driver.


def last_json(command, environment=None):
    """The JSON object that `command` prints; raises a one-line RuntimeError otherwise."""
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode != 0:
        said = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{Path(command[0]).name}: exit status {run.returncode}: {said}")
    try:
        return json.loads(run.stdout[run.stdout.index("{") :])
    except ValueError as error:
        raise RuntimeError(f"{Path(command[0]).name}: no JSON object on stdout: {run.stdout[:200]!r}") from error


def run_torch(job, layout):
    environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
    order = json.dumps({**job, "layout": layout})
    return last_json([sys.executable, "-W", "ignore", __file__, "--worker", order], environment)


def run_ctseg(job, binary):
    numbers = {"widths": job["widths"], "size": job["size"]}
    command = [str(binary), "bench", "--network", job["network"]]
    for name, values in numbers.items():
        command += [f"--{name}", ",".join(map(str, values))]
    device = "libtorch:cuda:0" if job["device"] == "cuda" else "libtorch"
    for name, value in {"batch": job["batch"], "precision": job["precision"], "device": device}.items():
        command += [f"--{name}", str(value)]
    for name in ("threads", "mode", "seconds"):
        command += [f"--{name}", f"{job[name]:g}" if name == "seconds" else str(job[name])]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CTSEG_")}
    result = last_json([*command, "--json"], environment)
    missing = [field for field in FIELDS if field not in result]
    if missing:
        raise RuntimeError(f"ctseg bench: no {', '.join(missing)} in its JSON")
    for name in ("network", "mode", "precision", "threads"):
        if result[name] != job[name]:
            raise RuntimeError(f"ctseg bench: {name} {result[name]!r} measured, {job[name]!r} requested")
    return result


def best(results):
    return min(results, key=lambda result: result["seconds_per_step_median"], default=None)


def measured(job, name, options):
    """Runs PyTorch and ctseg alternately, `options.rounds` times; the best of each and their ratios."""
    torch_runs, ctseg_runs, errors = [], [], []
    for number in range(options.rounds):
        turns = [(torch_runs, lambda layout=layout: run_torch(job, layout)) for layout in options.layouts]
        if not options.only_torch:
            turns.append((ctseg_runs, lambda: run_ctseg(job, options.ctseg)))
        for results, turn in turns:
            try:
                result = turn()
            except RuntimeError as error:
                errors.append(str(error))
                print(f"{name}: {error}", file=sys.stderr)
                continue
            results.append(result)
            label = result["engine"] + (f" {result['layout']}" if "layout" in result else "")
            print(
                f"round {number + 1} {name} {job['precision']} {job['mode']}: {label}: "
                f"{result['items_per_second']:.3g}/s, {result['peak_memory_mb']:.0f} MB",
                file=sys.stderr,
            )
    peer, ours = best(torch_runs), best(ctseg_runs)
    row = {"case": name, **job, "torch": peer, "ctseg": ours, "speed_ratio": None, "memory_ratio": None}
    if peer and ours:
        row["speed_ratio"] = peer["seconds_per_step_median"] / ours["seconds_per_step_median"]
        row["memory_ratio"] = peer["peak_memory_mb"] / ours["peak_memory_mb"]
    return {**row, "torch_runs": torch_runs, "ctseg_runs": ctseg_runs, "errors": errors}


def machine(options):
    """Machine and software versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in reversed(info.splitlines()) if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    code = "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    torch = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    if torch.returncode != 0:
        sys.exit(f"{sys.executable} has no PyTorch: pip install torch==2.11.0, or use another interpreter")
    version, _, gpu = torch.stdout.strip().partition(" ")
    if options.device == "cuda" and not gpu:
        sys.exit(f"--device cuda: PyTorch {version} finds no GPU here; omit the option to measure on the CPU")
    report = {"date": datetime.date.today().isoformat(), "torch": version, "python": platform.python_version()}
    if not options.only_torch:
        said = subprocess.run([options.ctseg, "--version"], capture_output=True, text=True)
        report["ctseg"] = said.stdout.strip()
    report["cpu"] = fields.get("model name", platform.processor())
    report["cpu_flags"] = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16") if f in flags]
    report |= {"gpu": gpu or None, "device": options.device, "threads": options.threads}
    return report | {"rounds": options.rounds, "seconds": options.seconds, "load_before": os.getloadavg()[0]}


def table(rows):
    lines = ["| case | precision | mode | PyTorch /s | layout | ctseg /s | speed | PyTorch MB | ctseg MB | memory |"]
    lines.append("|---" * 10 + "|")

    def cell(value, pattern="{:.3g}"):
        return "–" if value is None else pattern.format(value)

    for row in rows:
        peer, ours = row["torch"] or {}, row["ctseg"] or {}
        cells = [row["case"], row["precision"], row["mode"], cell(peer.get("items_per_second"))]
        cells += [peer.get("layout", "–"), cell(ours.get("items_per_second"))]
        cells += [cell(row["speed_ratio"], "**{:.2f}**"), cell(peer.get("peak_memory_mb"), "{:.0f}")]
        cells += [cell(ours.get("peak_memory_mb"), "{:.0f}"), cell(row["memory_ratio"], "{:.2f}")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compare(options, cases):
    report = {"machine": machine(options), "results": []}
    for key, value in report["machine"].items():
        print(f"{key}: {value}")
    for name in options.cases:
        for precision in options.precisions:
            for mode in options.modes:
                shared = {"device": options.device, "threads": options.threads, "seconds": options.seconds}
                job = {**cases[name], "precision": precision, "mode": mode, **shared}
                report["results"].append(measured(job, name, options))
                # Written after each measurement, so that an interrupted run keeps its results.
                options.output.write_text(json.dumps(report, indent=1) + "\n")
    print("\nSlices (2D) or patches (3D) per second; speed and memory: above 1 favours ctseg\n")
    print(table(report["results"]))
    print(f"\nwritten to {options.output}")
    return report


FAKE = """#!{python}
import json, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print("ctseg made-up"))
assert sys.argv[1] == "bench" and sys.argv[-1] == "--json", sys.argv
given = dict(zip(sys.argv[2:-1:2], sys.argv[3:-1:2]))
names = "network widths size batch precision device threads mode seconds".split()
assert sorted(given) == sorted("--" + name for name in names), sys.argv
assert all(int(n) > 0 for n in (given["--widths"] + "," + given["--size"]).split(",")), sys.argv
if given["--mode"] == "training" and given["--precision"] == "bf16":
    given["--precision"] = "f32"
print(json.dumps({{"engine": "made-up", "device": given["--device"], "precision": given["--precision"],
    "network": given["--network"], "mode": given["--mode"], "threads": int(given["--threads"]),
    "items_per_second": 1000.0, "voxels_per_second": 1e6, "seconds_per_step_median": 1e-6, "peak_memory_mb": 1.0}}))
"""


def dry(options):
    """Runs everything on tiny networks with a fake ctseg, which returns one result for the wrong precision."""
    with tempfile.TemporaryDirectory() as folder:
        options.ctseg, options.output = Path(folder) / "ctseg", Path(folder) / "report.json"
        options.ctseg.write_text(FAKE.format(python=sys.executable))
        options.ctseg.chmod(0o755)
        options.cases, options.seconds, options.rounds, options.only_torch = list(TINY_CASES), 0.05, 1, False
        compare(options, TINY_CASES)
        rows = json.loads(options.output.read_text())["results"]
    for row in rows:
        peer, wrong = row["torch"], (row["precision"], row["mode"]) == ("bf16", "training")
        assert len(row["torch_runs"]) == len(options.layouts) and peer == best(row["torch_runs"]), row
        assert row["errors"] == (["ctseg bench: precision 'f32' measured, 'bf16' requested"] if wrong else []), row
        expected = None if wrong else peer["seconds_per_step_median"] / 1e-6
        assert row["speed_ratio"] == expected and (wrong or row["memory_ratio"] == peer["peak_memory_mb"]), row
    print(f"dry run passed: {len(rows)} comparisons")


def several(choices):
    def parse(text):
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in choices]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {','.join(choices)}")
        return chosen

    return parse


def default_binary():
    built = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/ctseg"
    return built if built.exists() else Path(shutil.which("ctseg") or built)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ctseg", type=Path, default=default_binary(), help="ctseg binary  [%(default)s]")
    parser.add_argument("--only-torch", action="store_true", help="measure PyTorch only")
    for name, choices in (("cases", list(CASES)), ("precisions", ["f32", "bf16"]), ("modes", ["forward", "training"])):
        parser.add_argument(f"--{name}", type=several(choices), default=choices, help=",".join(choices))
    parser.add_argument("--layouts", type=several(LAYOUTS), default=LAYOUTS, help="PyTorch memory layouts: " + ",".join(LAYOUTS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement, at least 3 steps")
    parser.add_argument("--output", type=Path, default=Path("bench_vs_torch.json"))
    parser.add_argument("--dry", action="store_true", help="test this script on tiny networks with a fake ctseg")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    if options.threads < 1 or options.rounds < 1 or options.seconds <= 0:
        parser.error("--threads, --rounds and --seconds must be positive")
    if options.dry:
        dry(options)
        return
    if not options.only_torch and not options.ctseg.is_file():
        parser.error(f"{options.ctseg}: no such file; build ctseg with --features libtorch, or give --only-torch")
    report = compare(options, CASES)
    sys.exit(1 if any(row["errors"] for row in report["results"]) else 0)


if __name__ == "__main__":
    main()
