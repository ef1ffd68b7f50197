"""Benchmarks ctseg's augmentation against batchgeneratorsv2 (nnU-Net's) and albumentations.

Each transform is measured alone at probability 1 with the same parameters, on one thread, including the crop of the patch
from an image 1.5 times its size. Prints a table of patches per second of CPU time, and the ratios. batchgeneratorsv2 takes
tensors (channel, (z,) y, x); albumentations takes arrays (y, x, channel), slices only. Both transform the labels too.

Needs PyTorch, batchgeneratorsv2, albumentations and their dependencies. Runs `cargo bench --bench augment`, or --binary.

Run: python scripts/bench_augment.py [--seconds 1] [--binary target/release/deps/augment-…] [--json]
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

torch.set_num_threads(1)
import albumentations as A
import cv2
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.blank_rectangle import BlankRectangleTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

cv2.setNumThreads(0)
ROOT = Path(__file__).resolve().parents[1]
SIZES = {"192x192x3": ((192, 192), 3), "256x256x3": ((256, 256), 3), "48x80x80x1": ((48, 80, 80), 1), "96x96x96x1": ((96, 96, 96), 1)}


def scene(sides, channels):
    """The same waves and labels as in benches/augment.rs."""
    whole = [side * 3 // 2 for side in sides]
    grid = np.meshgrid(*map(np.arange, whole), indexing="ij")
    waves = np.sin(grid[-1] * 0.11) + np.cos(grid[-2] * 0.07) + (np.sin(grid[0] * 0.05) if len(sides) == 3 else 0)
    windows = [(-160, 240), (-200, 1200), (-1000, 400)][:channels]
    image = np.stack([np.clip((300 * waves - low) / (high - low), 0, 1) for low, high in windows]).astype(np.float32)
    blocks = grid[-2] // 40 + grid[-1] // 30 + (grid[0] // 20 if len(sides) == 3 else 0)
    return image, (blocks % 6).astype(np.int16)


def shared(one, other):
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def rate(once, seconds):
    once()
    started, cpu, count = time.perf_counter(), time.thread_time(), 0
    while time.perf_counter() - started < seconds or count < 3:
        once()
        count += 1
    return count / (time.thread_time() - cpu)


def batchgenerators(sides, channels):
    """Transforms by name, in nnU-Net's order."""
    flat = len(sides) == 2
    degrees = np.pi / 6

    def spatial(turned, elastic):
        return SpatialTransform(
            sides, [side // 2 for side in sides], random_crop=True,
            p_rotation=float(turned), rotation=(-degrees, degrees), p_scaling=float(turned), scaling=(0.7, 1.4),
            p_synchronize_scaling_across_axes=1, p_elastic_deform=float(elastic), elastic_deform_scale=(0.1, 0.1),
            elastic_deform_magnitude=(4, 4), p_synchronize_def_scale_across_axes=1, mode_seg="nearest",
        )

    noise = GaussianNoiseTransform(noise_variance=(0.0025, 0.0025), p_per_channel=1)
    blur = GaussianBlurTransform(blur_sigma=(0.75, 0.75), p_per_channel=1)
    brightness = MultiplicativeBrightnessTransform((1.2, 1.2), synchronize_channels=False, p_per_channel=1)
    contrast = ContrastTransform((1.2, 1.2), preserve_range=True, synchronize_channels=False, p_per_channel=1)
    coarse = SimulateLowResolutionTransform(
        scale=(0.75, 0.75), synchronize_channels=False, synchronize_axes=True, ignore_axes=(), p_per_channel=1
    )
    gamma = GammaTransform(gamma=(1.2, 1.2), p_invert_image=0, synchronize_channels=False, p_per_channel=1, p_retain_stats=1)
    mirror = MirrorTransform(tuple(range(len(sides))))
    boxes = BlankRectangleTransform(tuple((s // 20, s // 5) for s in sides), 0.0, (1, 4), p_per_channel=1)
    cut = spatial(False, False)
    every = [spatial(True, True), noise, blur, brightness, contrast, coarse, gamma, mirror]
    return {
        "cut": [cut], "rotation and scale": [spatial(True, False)], "elastic": [spatial(False, True)],
        "rotation, scale and elastic": [spatial(True, True)], "mirroring": [cut, mirror], "noise": [cut, noise],
        "blur": [cut, blur], "brightness": [cut, brightness], "contrast": [cut, contrast], "low resolution": [cut, coarse],
        "gamma": [cut, gamma], "coarse dropout": [cut, boxes], "all that batchgeneratorsv2 has": every,
    }


def albumentation(sides):
    """The equivalent transforms, where available; its gamma does not retain statistics, its contrast not the range."""
    height, width = sides
    crop = A.RandomCrop(height, width)
    linear = dict(interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST)
    of = lambda *steps: A.Compose(list(steps))
    turn = A.Affine(rotate=(-30, 30), scale=(0.7, 1.4), p=1, **linear)
    # alpha is not normalised; this value displaces by about the same number of pixels.
    elastic = A.ElasticTransform(alpha=60, sigma=width / 10, p=1, **linear)
    brightness = A.RandomBrightnessContrast((0.2, 0.2), (0, 0), p=1)
    contrast = A.RandomBrightnessContrast((0, 0), (0.2, 0.2), p=1)
    down = {"downscale": cv2.INTER_NEAREST, "upscale": cv2.INTER_LINEAR}
    return {
        "cut": of(crop), "rotation and scale": of(turn, crop), "elastic": of(crop, elastic),
        "rotation, scale and elastic": of(turn, crop, elastic), "mirroring": of(crop, A.HorizontalFlip(p=1), A.VerticalFlip(p=1)),
        "noise": of(crop, A.GaussNoise(std_range=(0.05, 0.05), p=1)), "blur": of(crop, A.GaussianBlur(blur_limit=0, sigma_limit=(0.75, 0.75), p=1)),
        "brightness": of(crop, brightness), "contrast": of(crop, contrast),
        "low resolution": of(crop, A.Downscale((0.75, 0.75), down, p=1)), "gamma": of(crop, A.RandomGamma((120, 120), p=1)),
        "coarse dropout": of(crop, A.CoarseDropout((1, 4), (0.05, 0.2), (0.05, 0.2), fill=0, p=1)),
    }


def peers(seconds):
    found = {}
    for name, (sides, channels) in SIZES.items():
        image, labels = scene(sides, channels)
        tensors = torch.from_numpy(image), torch.from_numpy(labels)[None]
        rates = found.setdefault(name, {})
        for change, steps in batchgenerators(sides, channels).items():
            def once():
                data = {"image": tensors[0], "segmentation": tensors[1]}
                for step in steps:
                    # The crop is a view, which later transforms may modify in place: copy it.
                    if step is not steps[0] and shared(data["image"], tensors[0]):
                        data = {key: value.clone() for key, value in data.items()}
                    data = step(**data)
            rates.setdefault(change, {})["batchgeneratorsv2"] = rate(once, seconds)
        if len(sides) == 2:
            array = np.ascontiguousarray(image.transpose(1, 2, 0))
            for change, compose in albumentation(sides).items():
                rates[change]["albumentations"] = rate(lambda: compose(image=array, mask=labels), seconds)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--binary", type=Path, help="compiled benchmark")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    command = [options.binary] if options.binary else ["cargo", "bench", "--quiet", "--manifest-path", ROOT / "Cargo.toml", "--bench", "augment", "--"]
    run = subprocess.run([*command, str(options.seconds)], check=True, capture_output=True, text=True)
    ours = json.loads(run.stdout.strip().splitlines()[-1])
    theirs = peers(options.seconds)
    if options.json:
        print(json.dumps({"ctseg": ours, "peers": theirs}, indent=1))
        return
    for size, rates in ours.items():
        print(f"\n| {size} | ctseg | batchgeneratorsv2 | ratio | albumentations | ratio |\n|---|---|---|---|---|---|")
        for change, rate_ in rates.items():
            row = [change, f"{rate_:.4g}"]
            for peer in ("batchgeneratorsv2", "albumentations"):
                other = theirs[size].get(change, {}).get(peer)
                row += [f"{other:.4g}", f"**{rate_ / other:.1f}**"] if other else ["–", ""]
            print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
