"""Writes datasets/totalsegmentator/tasks.toml from TotalSegmentator's own tables.

Needs TotalSegmentator 2.18.0 (`pip install --no-deps TotalSegmentator==2.18.0`), of which only tables of names are
imported. Values that are not in its tables are written by hand, with their place in its source.
Run: python scripts/make_totalsegmentator_tasks.py
"""

import ast
import importlib.metadata
import importlib.util
from pathlib import Path

from totalsegmentator import map_to_binary as maps
from totalsegmentator.map_tasks_config import DEFAULT_CONFIG, TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS

OUT = Path(__file__).resolve().parents[1] / "datasets/totalsegmentator/tasks.toml"

# python_api.py, totalsegmentator(): `crop_addon = [20,20,20] if crop_model is None else crop_addon`.
MARGIN_MM = 20.0
# nnunet.py, nnUNet_predict_image(): `if task_name in ["total", "total_v3", "total_mr"]: step_size = 0.8`.
STEPS = {"total": 0.8, "total_v3": 0.8, "total_mr": 0.8}
# nnunet.py, nnUNet_predict_image(), "Postprocessing multilabel"; SciPy's `label` joins voxels that share a face.
POSTPROCESSING = {
    "body": {
        "body_trunc": '[{ step = "largest_component", connectivity = 6 }]',
        "body_extremities": '[{ step = "smallest_volume", ml = 50.0, connectivity = 6 }]',
    }
}
LEFT_OUT = {
    "test": "it is for TotalSegmentator's own tests",
    "total_highres_test": "its weights were never published",
    "vertebrae_pp": "TotalSegmentator renumbers the vertebrae afterwards, which ctseg does not support",
    "vertebrae_pp_refined": "TotalSegmentator renumbers the vertebrae afterwards, which ctseg does not support",
}
PARTS = {
    "total": (maps.class_map_5_parts, maps.map_taskid_to_partname_ct),
    "total_v3": (maps.class_map_5_parts_total_v3, maps.map_taskid_to_partname_ct_v3),
    "total_mr": (maps.class_map_parts_mr, maps.map_taskid_to_partname_mr),
    "headneck_muscles": (maps.class_map_parts_headneck_muscles, maps.map_taskid_to_partname_headneck_muscles),
}


def downloads():
    """For each dataset, the task with which `totalseg_download_weights` downloads it."""
    found = importlib.util.find_spec("totalsegmentator").submodule_search_locations[0]
    tree = ast.parse((Path(found) / "bin/totalseg_download_weights.py").read_text())
    table = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "TASK_TO_ID"
    )
    by_model = {}
    for task, ids in sorted(table.items(), key=lambda entry: len(entry[1])):
        for model in ids:
            by_model.setdefault(model, task)
    return by_model


def rough(task, config):
    """The task of the rough model and its margin, as chosen in python_api.py."""
    if config["crop_model"]:
        return config["crop_model"], sum(config["crop_addon"]) / 3
    is_mr = task.endswith("_mr")
    if config["crop"] and {"body_trunc", "body_extremities"} & set(config["crop"]):
        return "body_fast", MARGIN_MM
    if is_mr:
        return "total_mr_fast", MARGIN_MM
    return ("total_fast" if config["robust_crop"] else "total_fastest"), MARGIN_MM


def names(mapping):
    assert sorted(mapping) == list(range(1, len(mapping) + 1)), mapping
    return [mapping[label] for label in sorted(mapping)]


def listed(values, indent=""):
    """A TOML array of strings, wrapped at 120 characters."""
    lines, line = [], indent + " "
    for value in values:
        if len(line) + len(value) + 4 > 119:
            lines.append(line)
            line = indent + " "
        line += f' "{value}",'
    return "[\n" + "\n".join([*lines, line]) + f"\n{indent}]"


def variants():
    """Every task's name in ctseg, with TotalSegmentator's name and settings."""
    for task, raw in TASK_CONFIGS.items():
        modes = raw.get("sub_modes", {"default": {k: v for k, v in raw.items() if k in DEFAULT_CONFIG or k in ("task_id", "trainer")}})
        for mode in ("default", "fast", "fastest"):
            if mode in modes:
                name = task if mode == "default" else f"{task}_{mode}"
                yield name, task, {**DEFAULT_CONFIG, "plans": "nnUNetPlans", **modes[mode]}


def main():
    models, tasks, licensed = {}, [], []
    by_model = downloads()
    for name, task, config in variants():
        if task in maps.commercial_models:
            licensed.append(name)
            continue
        if task in LEFT_OUT:
            continue
        ids = config["task_id"] if isinstance(config["task_id"], list) else [config["task_id"]]
        folds = "all" if config["folds"] is None else config["folds"]
        for model in ids:
            found = {
                "folder": TASK_ID_WEIGHTS_CONFIGS[model]["foldername"],
                "model": f"{config['trainer']}__{config['plans'] or 'nnUNetPlans'}__{config['model']}",
                "download": by_model[model],
                "folds": [] if folds == "all" else folds,
                "step": STEPS.get(task, 0.5),
                "linear": config["resample"] is not None,
            }
            assert models.setdefault(model, found) == found, model
        structures = names(maps.class_map[task])
        text = f"[tasks.{name}]\nstructures = {listed(structures)}\n"
        crop, asked = config["crop"], None
        if crop is not None:
            finder, margin = rough(task, config)
            asked = f'rough = {{ task = "{finder}", when = "always", margin_mm = {margin:.1f}, of = {listed(crop)} }}\n'
        elif task.startswith("total") and name not in ("total_fastest", "total_v3_fastest", "total_mr_fast", "total_mr_fastest"):
            # `--roi_subset`: the structures' own names.
            finder, margin = rough(task, config)
            asked = f'rough = {{ task = "{finder}", when = "chosen", margin_mm = {margin:.1f} }}\n'
        text += asked or ""
        for model in ids:
            own = structures
            if len(ids) > 1:
                part_maps, part_names = PARTS[task]
                own = names(part_maps[part_names[model]])
            text += f"[[tasks.{name}.parts]]\nmodel = {model}\n"
            if own != structures:
                text += f"structures = {listed(own)}\n"
        if task in POSTPROCESSING:
            text += f"[tasks.{name}.postprocessing]\n"
            text += "".join(f"{structure} = {steps}\n" for structure, steps in POSTPROCESSING[task].items())
        tasks.append(text)
    version = importlib.metadata.version("TotalSegmentator")
    head = (
        "# TotalSegmentator's tasks: their networks, structures and regions of interest. Generated from\n"
        f"# TotalSegmentator {version} by scripts/make_totalsegmentator_tasks.py; see NOTICE.md.\n\n"
        f'version = "{version}"\n'
        f"# Tasks that need a separate licence.\nlicensed = {listed(sorted(licensed))}\n\n"
        "[left_out]\n" + "".join(f'{task} = "{why}"\n' for task, why in LEFT_OUT.items()) + "\n"
        "# nnU-Net results by dataset number. `step`: tile_step_size; `linear`: resample images by linear interpolation;\n"
        "# without folds, all existing folds are used.\n"
    )
    for model, found in sorted(models.items()):
        head += f"[models.{model}]\n"
        for key in ("folder", "model", "download"):
            head += f'{key} = "{found[key]}"\n'
        head += f"folds = {found['folds']}\nstep = {found['step']}\nlinear = {str(found['linear']).lower()}\n\n"
    OUT.write_text(head + "\n".join(tasks))


if __name__ == "__main__":
    main()
