//! Byte streams, and a made-up format beside NIfTI.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ndarray::Array3;

use super::names::{in_words, stem};
use super::registry::{Formats, endings, format_for_name, identified, open_as};
use super::*;
use crate::labels::run_length_labels::LabelRuns;
use crate::nifti;
use crate::nifti::Nifti;
use crate::space::{Grid, LabelMap, Volume};
use ctseg_base::Result;

/// `MADE-UP`, three bytes of shape (x, y, z), and a byte for each voxel.
struct MadeUp;

const MAGIC: &[u8] = b"MADE-UP";

static BOTH: &Formats = &[&Nifti, &MadeUp];

impl MadeUp {
    fn read(source: &mut Source) -> Result<(VolumeHeader, Array3<u8>)> {
        let mut head = [0; 10];
        let found = source.fill(&mut head).map_err(|p| source.problem(p))?;
        if found < head.len() || !head.starts_with(MAGIC) {
            return Err(source.problem("not made up"));
        }
        let grid = Grid::with_spacing([7, 8, 9].map(|at| usize::from(head[at])), [1.0; 3]);
        let mut voxels = vec![0; grid.voxels()];
        source.fill(&mut voxels).map_err(|p| source.problem(p))?;
        let header = VolumeHeader::new(grid, VoxelType::U8);
        let voxels = Array3::from_shape_vec(grid.shape_zyx(), voxels).unwrap();
        Ok((header, voxels))
    }

    fn write(path: &Path, grid: &Grid, voxels: impl Iterator<Item = u8>) -> Result<()> {
        let shape = grid.shape.iter().map(|voxels| *voxels as u8);
        let bytes: Vec<u8> = MAGIC.iter().copied().chain(shape).chain(voxels).collect();
        ctseg_base::atomic_file::write_bytes_atomically(path, &bytes)
    }
}

impl VolumeFormat for MadeUp {
    fn endings(&self) -> &'static [&'static str] {
        &[".made"]
    }

    fn identify(&self, start: &[u8]) -> bool {
        start.starts_with(MAGIC)
    }

    fn read_header(&self, mut source: Source) -> Result<VolumeHeader> {
        Ok(Self::read(&mut source)?.0)
    }

    fn read_volume(&self, mut source: Source) -> Result<VolumeImage> {
        let (header, voxels) = Self::read(&mut source)?;
        let volume = Volume {
            grid: header.grid,
            data: voxels.mapv(f32::from),
        };
        Ok(VolumeImage {
            header,
            volume,
            non_finite: 0,
        })
    }

    fn read_label_map(&self, mut source: Source) -> Result<(VolumeHeader, LabelMap)> {
        let (header, voxels) = Self::read(&mut source)?;
        let labels = LabelMap {
            grid: header.grid,
            data: voxels.mapv(u16::from),
        };
        Ok((header, labels))
    }

    fn write_volume(&self, path: &Path, volume: &Volume, _: VoxelType) -> Result<()> {
        Self::write(path, &volume.grid, volume.data.iter().map(|v| *v as u8))
    }

    fn write_label_map(
        &self,
        path: &Path,
        labels: &LabelMap,
        _: &VolumeHeader,
        _: &LabelNames,
    ) -> Result<()> {
        Self::write(path, &labels.grid, labels.data.iter().map(|v| *v as u8))
    }
}

fn labels() -> LabelMap {
    let grid = Grid::with_spacing([6, 5, 4], [1.0; 3]);
    let data = Array3::from_shape_fn((4, 5, 6), |(z, y, x)| ((x + y * z) % 3) as u16);
    LabelMap { grid, data }
}

/// More than one chunk of voxels, so that gzip data are inflated ahead.
fn large() -> Volume {
    let grid = Grid::with_spacing([130, 101, 90], [0.7, 0.7, 2.5]);
    let data = Array3::from_shape_fn((90, 101, 130), |(z, y, x)| {
        ((x * 31 + y * 17 + z * 7) % 2000) as f32 - 1000.0
    });
    Volume { grid, data }
}

/// Returns a few bytes at a time, as sockets may.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = buffer.len().min(1 + self.0.len() % 3).min(self.0.len());
        self.0.read(&mut buffer[..bytes])
    }
}

fn same(found: &VolumeImage, expected: &VolumeImage) {
    assert!(found.volume.data == expected.volume.data);
    assert_eq!(found.volume.grid, expected.volume.grid);
    assert_eq!(found.header.voxel_type, expected.header.voxel_type);
    assert_eq!(found.header.voxel_mm3, expected.header.voxel_mm3);
    assert_eq!(found.header.warnings, expected.header.warnings);
    assert_eq!(found.non_finite, expected.non_finite);
}

#[test]
fn streams_read_the_same_as_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["image.nii", "image.nii.gz"] {
        let path = folder.path().join(name);
        let volume = large();
        write_volume(&path, &volume, VoxelType::I16).unwrap();
        let expected = read_volume(&path).unwrap();
        assert!(expected.volume.data == volume.data);
        let bytes = std::fs::read(&path).unwrap();
        for length in [None, Some(bytes.len() as u64)] {
            let reader: &mut dyn Read = &mut bytes.as_slice();
            same(
                &from_reader(reader, &path, length)
                    .unwrap()
                    .read_volume()
                    .unwrap(),
                &expected,
            );
        }
        let header = from_reader(Trickle(&bytes), &path, None).unwrap();
        let header = header.read_header().unwrap();
        assert_eq!(header.grid, expected.header.grid);
        let native = |header: &VolumeHeader| {
            header
                .native::<nifti::NiftiHeader>()
                .map(|h| h.raw_bytes().to_vec())
        };
        assert_eq!(native(&header), native(&expected.header));
        // Truncation is detected whether or not the length is known.
        for length in [None, Some(bytes.len() as u64)] {
            let half = from_reader(&bytes[..bytes.len() / 2], &path, length).unwrap();
            let error = half.read_volume().unwrap_err().to_string();
            assert!(error.contains("truncated"), "{error}");
        }
    }
}

#[test]
fn label_maps_are_read_from_streams() {
    let folder = tempfile::tempdir().unwrap();
    let labels = labels();
    let header = VolumeHeader::new(labels.grid, VoxelType::U8);
    let names = LabelNames::from([(1, "liver".to_owned()), (2, "spleen".to_owned())]);
    for name in ["labels.nii", "labels.nii.gz"] {
        let path = folder.path().join(name);
        write_label_map(&path, &labels, &header, &names).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let open = || from_reader(Trickle(&bytes), &path, None).unwrap();
        assert_eq!(open().read_label_map().unwrap().1, labels);
        assert_eq!(read_label_map(&path).unwrap().1, labels);
        assert_eq!(
            open().read_label_runs().unwrap().1,
            LabelRuns::from(&labels)
        );
        assert_eq!(open().read_label_names().unwrap(), names);
    }
}

#[test]
fn errors_are_those_of_nifti() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    for path in [
        file("empty.nii", b""),
        file("short.nii.gz", b"\x1f\x8b"),
        file("other.nii", &[b"NRRD0004\n".as_slice(), &[0; 400]].concat()),
        file("text.txt", &[b'x'; 1000]),
        folder.path().to_path_buf(),
        folder.path().join("missing.nii"),
    ] {
        let expected = nifti::read_volume(&path).unwrap_err().to_string();
        assert_eq!(read_volume(&path).unwrap_err().to_string(), expected);
        if let Ok(bytes) = std::fs::read(&path) {
            let length = Some(bytes.len() as u64);
            let found = from_reader(Trickle(&bytes), &path, length).and_then(|o| o.read_volume());
            assert_eq!(found.unwrap_err().to_string(), expected);
        }
    }
    assert_eq!(endings_in_words(), ".nii or .nii.gz");
}

#[test]
fn a_new_format_is_read_and_written_beside_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let labels = labels();
    let header = VolumeHeader::new(labels.grid, VoxelType::U8);
    let (made, nifti) = (at("labels.made"), at("labels.nii.gz"));
    for path in [&made, &nifti] {
        format_for_name(BOTH, path)
            .write_label_map(path, &labels, &header, &LabelNames::new())
            .unwrap();
        let open = || open_as(BOTH, path).unwrap();
        assert_eq!(open().read_label_map().unwrap().1, labels);
        assert_eq!(
            open().read_label_runs().unwrap().1,
            LabelRuns::from(&labels)
        );
        assert_eq!(
            open().read_volume().unwrap().volume.data,
            labels.data.mapv(f32::from)
        );
        assert!(open().read_label_names().unwrap().is_empty());
    }
    assert!(std::fs::read(&made).unwrap().starts_with(MAGIC));
    // A NIfTI label map may use the grid of an image of another format, and vice versa.
    let image = open_as(BOTH, &made).unwrap().read_volume().unwrap();
    let mask = |voxels: std::ops::Range<usize>, to: &mut [u8]| {
        let labels = labels.data.iter().skip(voxels.start);
        for (to, label) in to.iter_mut().zip(labels) {
            *to = u8::from(*label == 2);
        }
    };
    for path in [at("mask.made"), at("mask.nii")] {
        format_for_name(BOTH, &path)
            .write_mask(&path, &image.header, &mask)
            .unwrap();
        let (_, found) = open_as(BOTH, &path).unwrap().read_label_map().unwrap();
        assert_eq!(found.data, labels.data.mapv(|label| u16::from(label == 2)));
    }
    for name in ["a/b.MADE", "a/b.nii.gz"] {
        assert_eq!(stem(Path::new(name), &endings(BOTH)), Some("b".as_ref()));
    }
    assert_eq!(in_words(&endings(BOTH)), ".nii, .nii.gz or .made");
}

#[test]
fn content_decides_the_format_before_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let labels = labels();
    let header = VolumeHeader::new(labels.grid, VoxelType::U8);
    let write = |format: &dyn VolumeFormat, path: &Path, renamed: &Path| {
        let names = LabelNames::new();
        format
            .write_label_map(path, &labels, &header, &names)
            .unwrap();
        std::fs::rename(path, renamed).unwrap();
        let (_, found) = open_as(BOTH, renamed).unwrap().read_label_map().unwrap();
        assert_eq!(found, labels);
    };
    write(&MadeUp, &at("a.made"), &at("a.nii.gz"));
    write(&Nifti, &at("b.nii"), &at("b.made"));
    write(&Nifti, &at("c.nii.gz"), &at("c.made"));
    // If the content is unknown, the name decides; otherwise the first format reports the error.
    let error = |name: &str| {
        let source = Source::from_reader([b'x'; 500].as_slice(), Path::new(name), None).unwrap();
        let open = identified(BOTH, source).unwrap();
        open.read_header().unwrap_err().to_string()
    };
    assert_eq!(error("x.made"), "x.made: not made up");
    assert!(error("x.txt").contains("not a NIfTI image"));
}
