"""Writes tests/golden/nifti/cases.json: tiny NIfTI files and the values that nibabel reads from them.

Run from the repository root with numpy and nibabel installed (made with nibabel 5.4.2):

    python scripts/golden/make_nifti.py

Every case contains `file` (the .nii file, gzip-compressed, in hex), `shape`, `affine` (4x4, float64 little-endian in hex,
row by row) and `data` (get_fdata(), float64 little-endian in hex, in file order, x fastest). `raw_gzip` cases are stored
unchanged: several gzip members in one file.
"""

import gzip
import io
import json
import pathlib
import warnings

import nibabel as nib
import numpy as np
from nibabel.quaternions import mat2quat

SHAPE = (3, 2, 2)
DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
OUT = pathlib.Path("tests/golden/nifti/cases.json")


def rotation(x, y, z):
    """Rotation matrix from three angles in degrees about x, y and z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians([x, y, z])):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def affine(angles=(0, 0, 0), spacing=(0.8, 0.9, 2.5), origin=(-12.3, 45.6, -789.1), shear=0.0):
    out = np.eye(4)
    out[:3, :3] = rotation(*angles) @ np.array([[1, 0, 0], [0, 1, shear], [0, 0, 1]]) @ np.diag(spacing)
    out[:3, 3] = origin
    return out


def values(dtype, shape=SHAPE, seed=0):
    """Values over the type's whole range, including its limits."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    if dtype.kind == "f":
        data = rng.normal(0, 1000, count).astype(dtype)
        data[:3] = [0.1, -1e30, 1e-30]
    else:
        info = np.iinfo(dtype)
        data = rng.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
        data[:2] = [info.min, info.max]
    return data.reshape(shape, order="F")


def file_bytes(data, *, version=1, order="<", edit=None, offset=None):
    """A NIfTI file of a header, which `edit` may change, and raw voxels."""
    header_class = {1: nib.Nifti1Header, 2: nib.Nifti2Header}[version]
    header = header_class(endianness=order)
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = offset or header.single_vox_offset
    header.set_xyzt_units("mm")
    header["descrip"] = b"golden"
    header.set_sform(affine(), code=1)
    header["pixdim"][:4] = [1, 0.8, 0.9, 2.5]
    if edit:
        edit(header)
    head = header.binaryblock + b"\0" * (int(header["vox_offset"]) - len(header.binaryblock))
    return head + data.astype(data.dtype.newbyteorder(order)).tobytes(order="F")


def setter(**fields):
    def edit(header):
        for name, value in fields.items():
            header[name] = value

    return edit


def qform(matrix, code=1, sform_code=0, **fields):
    """The qform of `matrix`; written out, because nibabel's set_qform hides which fields it sets."""

    def edit(header):
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        turn = matrix[:3, :3] / spacing
        qfac = -1 if np.linalg.det(turn) < 0 else 1
        turn = turn * [1, 1, qfac]
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = mat2quat(turn)[1:]
        header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = matrix[:3, 3]
        header["pixdim"][:4] = [qfac, *spacing]
        header["qform_code"], header["sform_code"] = code, sform_code
        setter(**fields)(header)

    return edit


def sform(matrix, code=2, **fields):
    def edit(header):
        header["srow_x"], header["srow_y"], header["srow_z"] = matrix[:3]
        header["sform_code"] = code
        setter(**fields)(header)

    return edit


def pixdims(*values, **fields):
    def edit(header):
        header["pixdim"][: len(values)] = values
        setter(**fields)(header)

    return edit


def make_cases():
    cases = {}
    for version in (1, 2):
        for order in "<>":
            for dtype in DTYPES:
                name = f"nifti{version} {'little' if order == '<' else 'big'} {dtype}"
                cases[name] = file_bytes(values(dtype), version=version, order=order)
    short = values("i2", seed=1)
    for name, slope, inter in [
        ("2.5 and -1024", 2.5, -1024),
        ("1 and -1024", 1, -1024),
        ("0 is none", 0, 77),
        ("nan is none", np.nan, 77),
        ("inf is none", np.inf, 77),
        ("nan and nan", np.nan, np.nan),
        ("tiny", 1e-7, 0.1),
        ("negative", -1, 0),
    ]:
        cases[f"slope {name}"] = file_bytes(short, edit=setter(scl_slope=slope, scl_inter=inter))
    real = values("f4", seed=2)
    real[0, 0, 0], real[1, 0, 0], real[2, 1, 1] = np.nan, np.inf, -np.inf
    cases["float32 not finite"] = file_bytes(real)
    cases["float32 scaled"] = file_bytes(values("f4", seed=3), edit=setter(scl_slope=0.1, scl_inter=3))
    cases["float64 big scaled"] = file_bytes(
        values("f8", seed=4), order=">", version=2, edit=setter(scl_slope=0.1, scl_inter=3)
    )

    small = values("u1", seed=5)
    oblique, flipped = affine((10, -20, 30)), affine((170, 5, -100), spacing=(-0.8, 0.9, 2.5))
    for version in (1, 2):
        for name, edit in {
            "sform oblique": sform(oblique),
            "sform shear": sform(affine((3, 0, 0), shear=0.3)),
            "sform left-handed": sform(flipped),
            "sform before qform": lambda h: (qform(oblique)(h), sform(flipped, code=4)(h)),
            "sform code 5": sform(oblique, code=5),
            "sform code 9 is none": sform(oblique, code=9),
            "sform code -1, qform": lambda h: (sform(flipped, code=-1)(h), qform(oblique, sform_code=-1)(h)),
            "qform oblique": qform(oblique),
            "qform left-handed": qform(flipped, code=3),
            "qform code 9 is none": qform(oblique, code=9),
            "qform half turn about x": qform(affine((180, 0, 0))),
            "qform half turn about y": qform(affine((0, 180, 0))),
            "qform half turn about z": qform(affine((0, 0, 180))),
            "qform half turn, oblique": qform(affine((179.99, 40, 0))),
            "qform qfac 0 is 1": lambda h: (qform(oblique)(h), pixdims(0)(h)),
            "qform pixdim 0 is 1": lambda h: (qform(oblique)(h), pixdims(1, 0, 0.9, 2.5)(h)),
            "qform pixdim negative": lambda h: (qform(oblique)(h), pixdims(1, 0.8, -0.9, 2.5)(h)),
            "neither": pixdims(1, 0.8, 0.9, 2.5, sform_code=0),
            "neither, pixdim 0": pixdims(1, 0, 0.9, 0, sform_code=0),
            "micron": setter(xyzt_units=3),
            "metres": setter(xyzt_units=1),
        }.items():
            cases[f"nifti{version} {name}"] = file_bytes(small, version=version, edit=edit)
    cases["offset 1024"] = file_bytes(small, offset=1024)
    cases["offset 357"] = file_bytes(small, offset=357)
    cases["bitpix wrong"] = file_bytes(short, edit=setter(bitpix=99))
    cases["4-D"] = file_bytes(values("i2", (3, 2, 2, 1), seed=6))
    cases["7-D big"] = file_bytes(values("i2", (3, 2, 2, 1, 1, 1, 1), seed=6), order=">")
    cases["2-D"] = file_bytes(values("i2", (4, 3), seed=7))
    cases["2-D neither"] = file_bytes(
        values("i2", (4, 3), seed=7), edit=pixdims(1, 0.8, 0.9, 2.5, sform_code=0)
    )
    return cases


def read(content, name):
    image_class = nib.Nifti1Image if content[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c") else nib.Nifti2Image
    return image_class.from_bytes(content)


def expected(image):
    data = image.get_fdata(dtype=np.float64)
    return {
        "shape": list(image.shape),
        "affine": image.affine.astype("<f8").tobytes().hex(),
        "data": data.astype("<f8").tobytes(order="F").hex(),
    }


def pack(content):
    return gzip.compress(content, 9, mtime=0).hex()


def main():
    warnings.simplefilter("ignore")
    nib.imageglobals.logger.disabled = True
    out = []
    for name, content in make_cases().items():
        out.append({"name": name, "file": pack(content), **expected(read(content, name))})

    content = file_bytes(values("i2", seed=8))
    parts = [content[:100], b"", content[100:361], content[361:]]
    members = b"".join(gzip.compress(part, 9, mtime=0) for part in parts)
    out.append(
        {
            "name": "gzip members",
            "raw_gzip": members.hex(),
            **expected(read(gzip.GzipFile(fileobj=io.BytesIO(members)).read(), "members")),
        }
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in out)
    OUT.write_text(f'{{"nibabel": "{nib.__version__}", "cases": [\n{lines}\n]}}\n')
    print(f"{len(out)} cases, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
