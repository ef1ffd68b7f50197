#!/usr/bin/env python3
"""Writes the seeds in fuzz/corpus/TARGET/, the same bytes every time: small files that the readers take, and some that
they refuse. Inputs that fuzzing finds are kept beside them as found_NAME, which this script leaves alone."""

import gzip
import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COMPAT = ROOT.parent / "tests/data/compat"


def write(target, name, content):
    folder = ROOT / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def nifti(shape=(3, 2, 2), datatype=4, bits=16, voxels=None, extensions=b"", slope=1.0, order="<", magic=b"n+1\0"):
    header = bytearray(348)
    put = lambda form, at, *values: struct.pack_into(order + form, header, at, *values)
    put("i", 0, 348)
    put("8h", 40, len(shape), *shape, *[1] * (7 - len(shape)))
    put("hh", 70, datatype, bits)
    put("8f", 76, 1.0, 1.5, 1.5, 3.0, 1.0, 1.0, 1.0, 1.0)
    put("f", 108, 352 + len(extensions))
    put("ff", 112, slope, 0.0)
    header[123] = 2
    put("hh", 252, 1, 1)
    put("12f", 280, 1.5, 0, 0, 0, 0, 1.5, 0, 0, 0, 0, 3.0, 0)
    header[344:348] = magic
    count = 1
    for side in shape:
        count *= side
    if voxels is None:
        voxels = bytes(i % 7 for i in range(count * bits // 8))
    return bytes(header) + (b"\1\0\0\0" if extensions else b"\0\0\0\0") + extensions + voxels


def nifti2(shape=(3, 2, 2)):
    header = bytearray(540)
    struct.pack_into("<i8shh", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16)
    struct.pack_into("<8q", header, 16, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<8d", header, 104, 1.0, 1.5, 1.5, 3.0, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<q", header, 168, 544)
    struct.pack_into("<dd", header, 176, 1.0, 0.0)
    struct.pack_into("<ii", header, 344, 1, 1)
    struct.pack_into("<12d", header, 400, 1.5, 0, 0, 0, 0, 1.5, 0, 0, 0, 0, 3.0, 0)
    struct.pack_into("<i", header, 500, 2)
    return bytes(header) + bytes(4) + bytes(24)


def extension(code, content):
    size = -(-(8 + len(content)) // 16) * 16
    return struct.pack("<ii", size, code) + content.ljust(size - 8, b"\0")


def packed(content):
    return gzip.compress(content, mtime=0)


def npy(shape, descr="<f2", content=b""):
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + content


def volumes():
    plain = nifti()
    seeds = {
        "int16": plain,
        "big_endian": nifti(order=">"),
        "uint8": nifti(datatype=2, bits=8),
        "float32": nifti(datatype=16, bits=32, voxels=struct.pack("<12f", *range(12))),
        "float64": nifti(datatype=64, bits=64, voxels=struct.pack("<12d", *range(12))),
        "scaled": nifti(slope=0.5),
        "nifti2": nifti2(),
        "packed": packed(plain),
        "four_dimensions": nifti(shape=(3, 2, 2, 2)),
        "pair": nifti(magic=b"ni1\0"),
        "too_short": nifti(shape=(300, 300, 300), voxels=bytes(24)),
        "padded": plain + bytes(512),
    }
    for name, seed in seeds.items():
        write("nifti_header", name, seed)
        write("nifti_voxels", name, seed)


def gzip_members():
    content = packed(b"abc" * 50)
    write("gzip", "one", content)
    write("gzip", "two", content + packed(b"second"))
    write("gzip", "padded", content + bytes(100))
    write("gzip", "trailing", content + b"no gzip")
    write("gzip", "cut", content[:-5])
    write("gzip", "empty_members", packed(b"") * 20 + content)
    write("gzip", "plain", b"plain bytes")
    name = b"\x1f\x8b\x08\x18\0\0\0\0\0\xffname\0comment\0"
    write("gzip", "name_and_comment", name + content[10:])


def label_names():
    caret = b"<?xml version='1.0'?><CaretExtension><VolumeInformation Index='0'><LabelTable>" + \
        b"<Label Key='1' Red='1' Green='0' Blue='0' Alpha='1'><![CDATA[liver]]></Label>" + \
        b"<Label Key='2'><![CDATA[a ]]]]><![CDATA[> b]]></Label></LabelTable></VolumeInformation></CaretExtension>"
    write("label_names", "caret", extension(30, caret))
    write("label_names", "entities", extension(0, b"<Label Key=\"7\">a &amp; b &#65; &lt;</Label>"))
    write("label_names", "comment", extension(6, b"written by hand"))
    write("label_names", "several", extension(6, b"one") + extension(30, caret))
    write("label_names", "no_size", struct.pack("<ii", 0, 30) + caret[:8])
    write("label_names", "negative", struct.pack("<ii", -16, 30) + caret[:8])


def arrays():
    write("npy", "one_map", npy((1, 2, 3, 4), content=struct.pack("<24e", *[i / 24 for i in range(24)])))
    write("npy", "nan", npy((1, 1, 1, 2), content=struct.pack("<2e", float("nan"), 2.0)))
    write("npy", "huge", npy((1 << 40, 1 << 20, 1 << 10, 1)))
    write("npy", "float32", npy((1, 1, 1, 1), "<f4", bytes(4)))
    write("npy", "version_2", b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31))


def datasets():
    nnunet = {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 2, "file_ending": ".nii",
    }
    write("dataset_json", "nnunet", json.dumps(nnunet, indent=1))
    regions = {**nnunet, "labels": {"background": 0, "whole": [1, 2], "ignore": 3}, "regions_class_order": [1, 2]}
    write("dataset_json", "regions", json.dumps(regions))
    two = {**nnunet, "channel_names": {"0": "PET", "1": "CT"}}
    write("dataset_json", "two_channels", json.dumps(two))
    listed = {**nnunet, "dataset": {"a": {"images": ["imagesTr/a_0000.nii"], "label": "labelsTr/a.nii"}}}
    write("dataset_json", "listed", json.dumps(listed))
    decathlon = {
        "name": "Liver", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"},
        "training": [{"image": "./imagesTr/a_0000.nii", "label": "./labelsTr/a.nii"}], "test": ["./imagesTs/c_0000.nii"],
        "numTraining": 1, "licence": "CC-BY-SA 4.0",
    }
    write("dataset_json", "decathlon", json.dumps(decathlon))
    write("dataset_json", "mark", b"\xef\xbb\xbf{}")
    write("dataset_json", "deep", "[" * 500)
    patterns = 'name = "p"\nimages = "images/*.nii"\nlabels = "labels/{case}.nii"\npatient_delimiter = "_"\ntest = ["b"]\n' \
        "ignore = 255\n\n[structures]\nliver = 1\nspleen = 300\n"
    write("descriptor", "patterns", patterns)
    cases = 'name = "c"\nlicence = "CC0"\n\n[structures]\nliver = 1\n\n[cases.a]\nimage = "images/a.nii"\n' \
        'labels = "labels/a.nii"\npatient = "p1"\n\n[patients]\na = "p2"\n'
    write("descriptor", "cases", cases)
    masks = 'name = "m"\nroot = "."\nimages = "images/*.nii"\nlabels = "{case}/segmentations/{structure}.nii.gz"\n'
    write("descriptor", "masks", masks)
    write("descriptor", "unknown_key", 'name = "x"\nimage = "a"\n')


def text(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def integer(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def parts(*items):
    return b"(" + b"".join(items) + b"t"


def callable_of(module, name):
    return f"c{module}\n{name}\n".encode()


def dictionary(entries):
    return b"}(" + b"".join(text(name) + value for name, value in entries.items()) + b"u"


def tensor(shape, offset=0, length=16, kind="FloatStorage"):
    """Of the storage `0`."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = min(strides[axis] * shape[axis], 1 << 62)
    storage = parts(text("storage"), callable_of("torch", kind), text("0"), text("cpu"), integer(length)) + b"Q"
    sides = [parts(*map(integer, sides)) for sides in (shape, strides)]
    hooks = callable_of("collections", "OrderedDict") + b")R"
    return callable_of("torch._utils", "_rebuild_tensor_v2") + \
        parts(storage, integer(offset), *sides, b"\x89", hooks) + b"R"


def program(value):
    return b"\x80\x02" + value + b"."


def archive(files, compression=zipfile.ZIP_STORED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as written:
        for name, content in files.items():
            # Made on no day, and on the same system everywhere.
            info = zipfile.ZipInfo(name)
            info.create_system, info.compress_type = 3, compression
            written.writestr(info, content)
    return packed.getvalue()


def checkpoints():
    weights = {
        "encoder.stages.0.0.convs.0.conv.weight": tensor([2]),
        "decoder.stages.0.convs.0.conv.weight": tensor([1, 2, 2], 2),
        "decoder.seg_layers.0.weight": tensor([3, 2], 6),
    }
    checkpoint = program(dictionary({
        "network_weights": dictionary(weights),
        "init_args": dictionary({"configuration": text("3d_fullres")}),
        "trainer_name": text("nnUNetTrainer"),
        "inference_allowed_mirroring_axes": parts(b"K\0", b"K\1", b"K\2"),
        "current_epoch": integer(5),
        "_best_ema": b"G" + struct.pack(">d", 0.5),
    }))
    write("pickle", "checkpoint", checkpoint)
    state = callable_of("collections", "OrderedDict") + b")Rq\0(" + text("w") + tensor([2, 3], 0, 8, "HalfStorage") + \
        text("b") + tensor([], 6, 8, "HalfStorage") + b"u}" + text("_metadata") + b"}sb"
    write("pickle", "state", program(state))
    scalar = callable_of("numpy.core.multiarray", "scalar") + callable_of("numpy", "dtype") + \
        parts(text("f8"), b"\x89", b"\x88") + b"R" + b"(K\3" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb" + \
        callable_of("_codecs", "encode") + parts(text("\0\0\0\0\0\0\xe0?"), text("latin1")) + b"R\x86R"
    write("pickle", "scalar", program(scalar))
    path = callable_of("pathlib", "PosixPath") + parts(text("a"), text("b")) + b"R"
    device = callable_of("torch", "device") + parts(text("cuda")) + b"R"
    write("pickle", "values", program(dictionary({
        "path": path, "device": device, "list": b"](" + b"N\x88\x89" + b"M\0\1" + b"e", "set": b"\x8f(K\1\x90",
        "bytes": b"C\2ab", "again": b"]q\1h\1a", "tuple": b"K\1K\2\x86",
    })))
    lists = b"K\1q\0" + b"".join(b"0](h%ch%ceq%c" % (level - 1, level - 1, level) for level in range(1, 20))
    write("pickle", "doubled", program(lists))
    write("pickle", "call", program(b"cos\nsystem\n" + parts(text("true")) + b"R"))
    write("pickle", "no_shape", program(dictionary({"w": tensor([0, 1 << 40, 1 << 40], 0, 0)})))
    files = {"archive/data.pkl": checkpoint, "archive/byteorder": b"little", "archive/data/0": bytes(range(64))}
    write("zip", "checkpoint", archive(files))
    write("zip", "packed", archive(files, zipfile.ZIP_DEFLATED))
    write("zip", "big_endian", archive({**files, "archive/byteorder": b"big"}))
    write("zip", "no_storage", archive({"a/data.pkl": checkpoint}))
    write("zip", "two_pickles", archive({"a/data.pkl": b"N.", "b/data.pkl": b"N."}))
    write("zip", "model", archive({"m/plans.json": "{}", "m/fold_0/checkpoint_final.pth": "x"}, zipfile.ZIP_DEFLATED))
    write("zip", "above", archive({"../plans.json": "{}"}))


def weights():
    def file(header, content=b""):
        header = json.dumps(header, separators=(",", ":")).encode()
        return struct.pack("<Q", len(header)) + header + content

    def tensor(shape, begin, end, dtype="F32"):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    reals = struct.pack("<6f", *range(6))
    two = file({
        "__metadata__": {"ctseg": "{}"}, "fold_0.head.weight": tensor([2, 2], 0, 16), "fold_0.head.bias": tensor([2], 16, 24),
    }, reals)
    write("safetensors", "two", two)
    write("safetensors", "cut", two[:-1])
    write("safetensors", "none", file({}))
    write("safetensors", "half", file({"a": tensor([2], 0, 4, "F16")}, bytes(4)))
    write("safetensors", "empty", file({"a": tensor([0, 3], 0, 0), "b": tensor([], 0, 4)}, bytes(4)))
    write("safetensors", "no_shape", file({"a": tensor([0, 1 << 40, 1 << 40], 0, 0)}))
    write("safetensors", "overlap", file({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)))
    write("safetensors", "long_header", struct.pack("<Q", 1 << 62) + b"{}")


def plans():
    def resampling(order, is_seg=False):
        return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}

    common = {
        "patch_size": [16, 16, 16], "spacing": [3.0, 1.5, 1.5], "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False], "preprocessor_name": "DefaultPreprocessor",
        "resampling_fn_data_kwargs": resampling(3), "resampling_fn_seg_kwargs": resampling(1, True),
        "resampling_fn_probabilities_kwargs": resampling(1),
    }

    def network(class_name, axes, **more):
        unet = "residual_unet" if class_name.startswith("Residual") else "unet"
        arguments = {
            "n_stages": 2, "features_per_stage": [4, 8], "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * 2, "strides": [[1] * axes, [2] * axes], "n_conv_per_stage_decoder": [2],
            "conv_bias": True, "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": "torch.nn.LeakyReLU", **more,
        }
        name = f"dynamic_network_architectures.architectures.{unet}.{class_name}"
        return {"architecture": {"network_class_name": name, "arch_kwargs": arguments}}

    def file(configurations, **more):
        intensities = {"mean": 90.0, "std": 40.0, "percentile_00_5": -50.0, "percentile_99_5": 200.0}
        return json.dumps({
            "dataset_name": "Dataset001_A", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager", "transpose_forward": [0, 1, 2],
            "foreground_intensity_properties_per_channel": {"0": intensities}, "configurations": configurations, **more,
        })

    plain = {**common, **network("PlainConvUNet", 3, n_conv_per_stage=[2, 2])}
    write("plans_json", "plain", file({"3d_fullres": plain}))
    residual = {**common, **network("ResidualEncoderUNet", 3, n_blocks_per_stage=[1, 3])}
    write("plans_json", "residual", file({"3d_fullres": residual}))
    slices = {
        **common, **network("PlainConvUNet", 2, n_conv_per_stage=2), "patch_size": [16, 16], "spacing": [1.5, 1.5],
        "normalization_schemes": ["ZScoreNormalization"],
    }
    write("plans_json", "slices", file({"3d_fullres": slices}, transpose_forward=[1, 0, 2]))
    older = {
        **common, "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 4, "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": [2, 2], "n_conv_per_stage_decoder": [2], "conv_kernel_sizes": [[3, 3, 3]] * 2,
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
    }
    write("plans_json", "older", file({"3d_fullres": older}))
    inherits = {"inherits_from": "base", "previous_stage": "3d_lowres"}
    write("plans_json", "inherits", file({"base": plain, "3d_fullres": inherits}))
    write("plans_json", "loop", file({"3d_fullres": {"inherits_from": "3d_fullres"}}))
    write("plans_json", "not_finite", file({"3d_fullres": {**plain, "spacing": [float("nan"), float("-inf"), 1e-300]}}))
    write("plans_json", "zeros", file({"3d_fullres": {
        **common, **network("PlainConvUNet", 3, n_conv_per_stage=[0, 0], strides=[[0, 0, 0]] * 2), "patch_size": [0, 0, 0],
    }}))


def replies():
    run = {"run_id": "r1", "artifact_uri": "mlflow-artifacts:/1/r1/artifacts", "lifecycle_stage": "active", "start_time": 17}
    write("mlflow_reply", "run", json.dumps({"run": {"info": run}}))
    for name, uri in [
        ("folder", "file:///tmp/1/r1/artifacts"), ("link_out", "file:../../etc/passwd"), ("bucket", "s3://bucket/1/r1"),
        ("host", "mlflow-artifacts://host:1/1/r1"),
        ("address", "http://host/mlflow/api/2.0/mlflow-artifacts/artifacts/1/r1"),
    ]:
        write("mlflow_reply", name, json.dumps({"run": {"info": {**run, "artifact_uri": uri}}}))
    write("mlflow_reply", "experiment", json.dumps({"experiment": {"experiment_id": "1", "lifecycle_stage": "deleted"}}))
    write("mlflow_reply", "model", json.dumps({"model": {"info": {"model_id": "m1", "artifact_uri": "mlflow-artifacts:/1"}}}))
    part = {"url": "https://user:secret@store:9000/b/1?signature=%zz", "part_number": 1, "headers": {"x-store": "yes"}}
    write("mlflow_reply", "parts", json.dumps({"upload_id": "u1", "credentials": [part, {**part, "url": "ftp://store"}]}))
    write("mlflow_reply", "missing", json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run\nhere"}))
    write("mlflow_reply", "page", "<!DOCTYPE html>\n<html><body>Login</body></html>")
    write("mlflow_reply", "wait", "Wed, 21 Oct 2015 07:28:00 GMT")
    write("mlflow_reply", "nothing", b" \n")


def settings():
    for recipe in ["coarse", "refine", "nnunet-3d_fullres", "resenc"]:
        text = (ROOT.parent / f"stages/{recipe}.toml").read_bytes()
        write("recipe", recipe, text)
    write("recipe", "nan", "spacing_mm = [nan, -1.0, 1e-9]\n[network]\nwidths = [16384]\n[training]\npatch_size = [0, 1000000]\n")
    write("recipe", "folds", "folds = 4611686018427387904\n")
    config = 'data = "data"\ndata_root = "/data"\nmodel = "model"\nruns = "runs"\ncase_cache = "cache"\n' \
        'case_cache_size = "50G"\nscratch = "$TMPDIR"\ndevice = "cpu"\nprecision = "bf16"\n\n[mlflow]\n' \
        'uri = "http://127.0.0.1:5000"\nexperiment = "e"\nmodel = "m"\n'
    write("config", "all", config)
    write("config", "empty", "")
    write("config", "unknown_key", "dada = 1\n")


def models():
    manifest = (COMPAT / "model/model.toml").read_bytes()
    write("model_toml", "two_stages", manifest)
    write("model_toml", "one_stage", (COMPAT / "resumed/model.toml").read_bytes())
    wide = manifest.replace(b"widths = [4, 8]", b"widths = [16384, 16384]")
    write("model_toml", "wide", wide.replace(b"spacing_mm = [12.0, 12.0, 12.0]", b"spacing_mm = [nan, -1.0, 1e-9]"))
    write("model_toml", "no_stage", 'format = 2\nctseg_version = "0.1.0"\n\n[structures]\n1 = "liver"\n')
    # Of the files that readers.rs puts beside it.
    of = lambda content: hashlib.sha256(content).hexdigest()
    weights = of((ROOT / "corpus/safetensors/two").read_bytes())
    sums = f"{of(manifest)}  model.toml\n{weights}  stage1.safetensors\n{weights}  stage2.safetensors\n"
    write("sums", "whole", sums)
    write("sums", "one_left_out", sums.split("\n", 1)[1])
    write("sums", "changed", (COMPAT / "model/SHA256SUMS").read_bytes())
    write("sums", "above", f"{weights}  ../model.toml\n")
    write("sums", "folder", f"{weights}  ..\n")
    write("sums", "no_sum", "model.toml\n")


def written_by_ctseg():
    sidecar = (COMPAT / "out/case_4.json").read_bytes()
    write("sidecar", "done", sidecar)
    begun = {"state": "writing", "input": "case.nii.gz", "ctseg_version": "0.1.0", "worker": None, "files": ["case.nii.gz"]}
    write("sidecar", "begun", json.dumps(begun))
    write("sidecar", "foreign", '{"Manufacturer": "x", "EchoTime": 0.1}')
    (claim,) = (COMPAT / "claims").glob("*.claim-1")
    (mark,) = (COMPAT / "claims").glob("*.json")
    # Of the process and the way that readers.rs asks for.
    write("claims", "claim", "01234567-1-2.0\n")
    write("claims", "mark", json.dumps({**json.loads(mark.read_bytes()), "process": "01234567-1-2.0", "way": "way"}))
    write("claims", "other_claim", claim.read_bytes())
    write("claims", "other_mark", mark.read_bytes())
    worker = {"process": "01234567-1-2", "host": "node", "pid": 1, "job": "7_1", "rank": 0}
    write("claims", "process", json.dumps(worker))


for make in (
    volumes, gzip_members, label_names, arrays, checkpoints, weights, plans, datasets, settings, models, written_by_ctseg,
    replies,
):
    make()
