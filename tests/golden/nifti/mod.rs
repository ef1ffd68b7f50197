//! The cases of `cases.json`, made by `scripts/golden/make_nifti.py`.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A small NIfTI file and what nibabel reads from it.
pub struct Case {
    pub name: String,
    /// The bytes of the file.
    pub file: Vec<u8>,
    /// nibabel's `img.shape`, as long as the file says.
    pub shape: Vec<usize>,
    pub affine: [[f64; 4]; 3],
    /// nibabel's `get_fdata()`, x fastest.
    pub data: Vec<f64>,
}

impl Case {
    /// Writes the file into `folder`.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("case.nii");
        std::fs::write(&path, &self.file).unwrap();
        path
    }

    /// The shape with ones up to three dimensions.
    pub fn shape3(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.shape.get(axis).copied().unwrap_or(1))
    }
}

pub fn cases() -> Vec<Case> {
    let json: Value = serde_json::from_str(include_str!("cases.json")).unwrap();
    let cases = json["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    cases.iter().map(case).collect()
}

pub fn named(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

fn case(json: &Value) -> Case {
    let affine = reals(&json["affine"]);
    Case {
        name: json["name"].as_str().unwrap().to_owned(),
        file: match json.get("raw_gzip") {
            Some(bytes) => hex(bytes),
            None => gunzip(&hex(&json["file"])),
        },
        shape: serde_json::from_value(json["shape"].clone()).unwrap(),
        affine: std::array::from_fn(|row| std::array::from_fn(|col| affine[4 * row + col])),
        data: reals(&json["data"]),
    }
}

fn reals(json: &Value) -> Vec<f64> {
    let bytes = hex(json);
    let numbers = bytes.as_chunks::<8>().0.iter();
    numbers.map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

fn hex(json: &Value) -> Vec<u8> {
    let text = json.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_end(&mut content)
        .unwrap();
    content
}
