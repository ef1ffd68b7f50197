"""Writes crates/image/src/metrics/surface/normals.rs: the surface elements of every neighbourhood of 2 × 2 × 2
voxels, from the lookup table of google-deepmind/surface-distance (Apache License 2.0). All values are multiples of 1/8
and are written as eighths.

Run: pip install --no-deps surface-distance==0.1 && python scripts/make_surface_normals.py
"""

from pathlib import Path

from surface_distance import lookup_tables

OUT = Path(__file__).resolve().parents[1] / "crates/image/src/metrics/surface/normals.rs"

HEAD = """\
//! The surface elements of every neighbourhood of 2 × 2 × 2 voxels, by marching cubes: the lookup table of
//! google-deepmind/surface-distance, copyright 2018 Google Inc., Apache License 2.0. Written by
//! `scripts/make_surface_normals.py`.

/// For every neighbourhood code the normals (x, y, z) of its elements, in eighths of a voxel's faces; their length
/// is the elements' area.
#[rustfmt::skip]
pub const NORMALS: [&[[i8; 3]]; 256] = [
"""


def main():
    lines = []
    for normals in lookup_tables._NEIGHBOUR_CODE_TO_NORMALS:
        eighths = [[value * 8 for value in normal] for normal in normals]
        assert all(value == int(value) and abs(value) < 100 for normal in eighths for value in normal)
        shown = [[int(value) for value in normal] for normal in eighths if any(normal)]
        lines.append("    &" + str(shown) + ",\n")
    assert len(lines) == 256
    OUT.write_text(HEAD + "".join(lines) + "];\n")


if __name__ == "__main__":
    main()
