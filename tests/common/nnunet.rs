//! Models and arrays of nnU-Net, and comparisons of ctseg with them.

use std::path::{Path, PathBuf};
use std::process::Command;

use ctseg_core::inference::cascade::Cascade;
use ctseg_core::model::bundle::Bundle;
use ctseg_engine::device::{Compute, DeviceChoice};
use ctseg_engine::precision::PrecisionChoice;
use ctseg_image::nifti::{read_labels, read_volume};

/// Input, and logits of every structure, on the network's grid.
pub struct NetworkOutput {
    /// (channel, z, y, x), flattened, and its shape.
    pub input: (Vec<usize>, Vec<f32>),
    pub logits: (Vec<usize>, Vec<f32>),
}

/// A NumPy file of f32 in C order: shape and values.
pub fn npy(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{}", path.display());
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..end]).unwrap();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"));
    let shape = header.split_once("'shape': (").unwrap().1;
    let shape = shape.split_once(')').unwrap().0.split(',');
    let shape: Vec<usize> = shape.filter_map(|side| side.trim().parse().ok()).collect();
    let values: Vec<f32> = bytes[end..]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(values.len(), shape.iter().product::<usize>());
    (shape, values)
}

/// The arrays that nnU-Net saved beside a label map (scripts/nnunet_models.py). `structures` are the rows of its logits
/// to keep, each minus the row of the `background` if given.
pub fn saved_output(
    folder: &Path,
    structures: &[usize],
    background: Option<usize>,
) -> NetworkOutput {
    let (mut shape, logits) = npy(&folder.join("case_logits.npy"));
    let voxels: usize = shape[1..].iter().product();
    let map = |row: usize| &logits[row * voxels..(row + 1) * voxels];
    let mut values = Vec::new();
    for row in structures {
        match background {
            Some(zero) => values.extend(map(*row).iter().zip(map(zero)).map(|(a, b)| a - b)),
            None => values.extend_from_slice(map(*row)),
        }
    }
    shape[0] = structures.len();
    NetworkOutput {
        input: npy(&folder.join("case_input.npy")),
        logits: (shape, values),
    }
}

/// Input and logits of ctseg's model, in f32.
pub fn network_output(model: &Path, image: &Path) -> NetworkOutput {
    let precision = "f32".parse::<PrecisionChoice>().unwrap();
    let compute = Compute::open(DeviceChoice::Auto, precision, 2).unwrap();
    let cascade = Cascade::load(&Bundle::open(model).unwrap(), &compute).unwrap();
    let output = cascade
        .network_output(&read_volume(image).unwrap().volume)
        .unwrap();
    let flat =
        |array: ndarray::Array4<f32>| (array.shape().to_vec(), array.iter().copied().collect());
    NetworkOutput {
        input: flat(output.input),
        logits: flat(output.logits),
    }
}

/// Fails unless preprocessed arrays agree to 1e-4, and logits to 1e-3 of the largest.
pub fn assert_agree(found: &NetworkOutput, expected: &NetworkOutput) {
    assert_eq!(found.input.0, expected.input.0, "shapes of the input");
    assert_eq!(found.logits.0, expected.logits.0, "shapes of the logits");
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let difference = |a: &[f32], b: &[f32]| {
        let pairs = a.iter().zip(b);
        pairs.fold(0.0f32, |most, (a, b)| most.max((a - b).abs()))
    };
    let input = difference(&found.input.1, &expected.input.1);
    let scale = largest(&expected.logits.1);
    let logits = difference(&found.logits.1, &expected.logits.1) / scale;
    println!("input within {input:.1e}, logits within {logits:.1e} of {scale}");
    assert!(input <= 1e-4, "inputs differ by {input}");
    assert!(logits <= 1e-3, "logits differ by {logits} of {scale}");
}

/// The share of voxels with the same label in both maps; both must contain structures.
pub fn agreement(found: &Path, expected: &Path) -> f64 {
    let (_, found) = read_labels(found).unwrap();
    let (_, expected) = read_labels(expected).unwrap();
    assert!(found.grid.same_as(&expected.grid, 1e-3), "different grids");
    let pairs = || found.data.iter().zip(&expected.data);
    let marked = pairs().filter(|(_, label)| **label > 0).count();
    assert!(
        200 * marked > pairs().count(),
        "only {marked} voxels are marked"
    );
    let same = pairs().filter(|(a, b)| a == b).count();
    same as f64 / pairs().count() as f64
}

/// Runs one of our scripts with the Python that has nnU-Net; `None` if `CTSEG_TEST_NNUNET` is not set.
pub fn nnunet(script: &str, arguments: &[&str]) -> Option<()> {
    let Some(python) = std::env::var_os("CTSEG_TEST_NNUNET") else {
        println!("skipped: CTSEG_TEST_NNUNET is not set to a Python with nnunetv2");
        return None;
    };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python)
        .arg(root.join("scripts").join(script))
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Some(())
}
