//! `examples/segment.rs` writes the label map that an earlier version of the command wrote with the same model.

#[allow(dead_code)] // its `main`
#[path = "../../examples/segment.rs"]
mod segment;

use std::path::Path;

use ctseg_image::space::LabelMap;

#[test]
fn the_example_segments_as_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("labels.nii.gz");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compat");
    let input = data.join("data/images/case_4.nii.gz");
    let labels = segment::segment(&input, &data.join("model"), &output).unwrap();
    let expected = LabelMap::open(data.join("out/case_4.nii.gz")).unwrap();
    assert!(labels == expected, "other labels than those of the command");
    assert!(LabelMap::open(&output).unwrap() == labels);
}
