//! Zero bytes after a file's content, as left by tapes, block devices and object stores: like gzip, Python and ITK,
//! ctseg skips them, with a warning.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::golden;
use ctseg_image::nifti::{read_header, read_labels, read_volume};

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

/// A NIfTI-1 file of 3 x 2 x 2 int16 voxels, two of them not 0.
fn labels() -> Vec<u8> {
    let mut file = golden::named("nifti1 little i2").file;
    file[352..].fill(0);
    file[352] = 1;
    file[354] = 2;
    file
}

#[test]
fn zeros_after_the_content_are_accepted_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("padded.nii.gz");
    let whole = labels();
    std::fs::write(&path, &whole).unwrap();
    let expected = read_volume(&path).unwrap();
    let padded = |content: &[u8], zeros: usize| [content, &vec![0; zeros]].concat();
    let half = whole.len() / 2;
    let members = [padded(&gzip(&whole[..half]), 3), gzip(&whole[half..])].concat();
    for (content, warning) in [
        (
            padded(&gzip(&whole), 512),
            "512 zero bytes follow the gzip data; ignored",
        ),
        (
            padded(&gzip(&whole), 70_000),
            "70000 zero bytes follow the gzip data; ignored",
        ),
        (
            padded(&whole, 160),
            "160 zero bytes follow the voxels; ignored",
        ),
        (
            gzip(&padded(&whole, 160)),
            "160 zero bytes follow the voxels; ignored",
        ),
        (members, ""),
    ] {
        std::fs::write(&path, &content).unwrap();
        let image = read_volume(&path).unwrap();
        assert_eq!(image.volume.data, expected.volume.data);
        let (labels, _) = read_labels(&path).unwrap();
        for header in [&image.header, &labels] {
            let new = &header.warnings()[expected.header.warnings().len()..];
            assert_eq!(new.concat(), warning);
        }
        read_header(&path).unwrap();
    }
}
