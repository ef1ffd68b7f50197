#!/usr/bin/env python3
"""Writes the seeds in fuzz/corpus/TARGET/, the same bytes every time: small files that the readers take, and some that
they refuse. Inputs that fuzzing finds are kept beside them as found_NAME, which this script leaves alone."""

import gzip
import json
import struct
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


def written_by_ctseg():
    sums = (COMPAT / "model/SHA256SUMS").read_bytes()
    write("sums", "model", sums)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    write("sums", "empty_weights", f"{empty}  stage1.safetensors\n")
    write("sums", "above", f"{empty}  ../model.toml\n")
    write("sums", "no_sum", "model.toml\n")
    sidecar = (COMPAT / "out/case_4.json").read_bytes()
    write("sidecar", "done", sidecar)
    begun = {"state": "writing", "input": "case.nii.gz", "ctseg_version": "0.1.0", "worker": None, "files": ["case.nii.gz"]}
    write("sidecar", "begun", json.dumps(begun))
    write("sidecar", "foreign", '{"Manufacturer": "x", "EchoTime": 0.1}')
    (claim,) = (COMPAT / "claims").glob("*.claim-1")
    (mark,) = (COMPAT / "claims").glob("*.json")
    write("claims", "claim", claim.read_bytes())
    write("claims", "mark", mark.read_bytes())
    worker = {"process": "01234567-1-2", "host": "node", "pid": 1, "job": "7_1", "rank": 0}
    write("claims", "process", json.dumps(worker))


for make in (volumes, gzip_members, label_names, arrays, datasets, settings, written_by_ctseg):
    make()
