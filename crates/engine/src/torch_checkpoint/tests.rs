//! Files that would expand to far more than their size, built byte by byte.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::TorchFile;

fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn text(text: &str) -> Vec<u8> {
    let length = (text.len() as u32).to_le_bytes();
    [&b"X"[..], &length, text.as_bytes()].concat()
}

fn int(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

/// A storage of `length` f32 values.
fn storage(key: &str, length: i64) -> Vec<u8> {
    let kind = global("torch", "FloatStorage");
    let named = [text("storage"), kind, text(key), text("cpu"), int(length)].concat();
    [&b"("[..], &named, b"tQ"].concat()
}

/// A contiguous tensor at the start of its storage.
fn tensor(key: &str, length: i64, shape: &[i64]) -> Vec<u8> {
    let tuple = |items: &[i64]| {
        let items: Vec<u8> = items.iter().flat_map(|item| int(*item)).collect();
        [&b"("[..], &items, b"t"].concat()
    };
    let strides: Vec<i64> = (0..shape.len())
        .map(|axis| {
            shape[axis + 1..]
                .iter()
                .fold(1, |all: i64, side| all.wrapping_mul(*side))
        })
        .collect();
    [
        global("torch._utils", "_rebuild_tensor_v2"),
        b"(".to_vec(),
        storage(key, length),
        int(0),
        tuple(shape),
        tuple(&strides),
        b"\x89".to_vec(),
        global("collections", "OrderedDict"),
        b")RtR".to_vec(),
    ]
    .concat()
}

/// A dictionary from keys and values.
fn dictionary(parts: &[Vec<u8>]) -> Vec<u8> {
    [&b"\x80\x02}("[..], &parts.concat(), b"u."].concat()
}

struct Hostile {
    folder: tempfile::TempDir,
}

impl Hostile {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("hostile.pth")
    }

    fn opened(&self, pickle: &[u8], storages: &[(&str, Vec<u8>)]) -> Result<TorchFile, String> {
        let mut writer = ZipWriter::new(File::create(self.path()).unwrap());
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let mut put = |name: &str, bytes: &[u8]| {
            writer
                .start_file(format!("archive/{name}"), stored)
                .unwrap();
            writer.write_all(bytes).unwrap();
        };
        put("data.pkl", pickle);
        for (key, bytes) in storages {
            put(&format!("data/{key}"), bytes);
        }
        writer.finish().unwrap();
        TorchFile::open(&self.path()).map_err(|error| error.to_string())
    }

    fn refused(&self, pickle: &[u8], storages: &[(&str, Vec<u8>)], expected: &str) {
        let error = self.opened(pickle, storages).err().unwrap();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains('\n') && error.len() < 700, "{error}");
    }
}

const TOO_MUCH: &str = "its values exceed what a file of";

#[test]
fn repeated_references_are_not_expanded_without_limit() {
    // Each list holds the previous one twice.
    let mut lists = b"K\x01q\x00".to_vec();
    for level in 1..60u8 {
        lists.extend([
            b'0',
            b']',
            b'(',
            b'h',
            level - 1,
            b'h',
            level - 1,
            b'e',
            b'q',
            level,
        ]);
    }
    let weight = [text("w"), tensor("0", 4, &[4])].concat();
    let pickle = dictionary(&[weight, text("s"), lists]);
    let file = Hostile::new()
        .opened(&pickle, &[("0", vec![0; 16])])
        .unwrap();
    let error = file.json(file.root().get("s").unwrap()).unwrap_err();
    assert!(error.to_string().contains(TOO_MUCH), "{error}");
    // As a dictionary key, whose quotes are escaped again on each level.
    let mut keys = [text("a"), b"q\x00".to_vec()].concat();
    for level in 1..60u8 {
        keys.extend([b'0', b'}', b'h', level - 1, b'K', 1, b's', b'q', level]);
    }
    let file = Hostile::new()
        .opened(&dictionary(&[text("s"), keys]), &[])
        .unwrap();
    let error = file.json(file.root().get("s").unwrap()).unwrap_err();
    assert!(error.to_string().contains(TOO_MUCH), "{error}");
}

#[test]
fn calls_cost_no_more_than_they_make() {
    let hostile = Hostile::new();
    // A call that returns the first of 20,000 arguments, 20,000 times.
    let arguments = [b"(N".to_vec(), b"2".repeat(20_000), b"tq\x010".to_vec()].concat();
    let device = [global("torch", "device"), b"q\x000".to_vec()].concat();
    let calls = b"h\x00h\x01R0".repeat(20_000);
    let pickle = [
        b"\x80\x02".to_vec(),
        device,
        arguments,
        calls,
        b"}.".to_vec(),
    ]
    .concat();
    hostile.opened(&pickle, &[]).unwrap();
    // A path of many parts, all of them the same long text.
    let parts = [text(&"p".repeat(100_000)), b"2".repeat(10_000)].concat();
    let path = [
        global("pathlib", "PosixPath"),
        b"(".to_vec(),
        parts,
        b"tR.".to_vec(),
    ]
    .concat();
    hostile.refused(&path, &[], TOO_MUCH);
    // The same text encoded repeatedly.
    let encode = [global("_codecs", "encode"), b"q\x000(".to_vec()].concat();
    let argument = [text(&"p".repeat(100_000)), b"tq\x010".to_vec()].concat();
    let calls = b"h\x00h\x01R0".repeat(10_000);
    hostile.refused(
        &[encode, argument, calls, b"}.".to_vec()].concat(),
        &[],
        TOO_MUCH,
    );
    let many = [b"\x80\x02".to_vec(), b"N".repeat(2_000_000), b".".to_vec()].concat();
    hostile.refused(&many, &[], TOO_MUCH);
}

#[test]
fn names_are_bounded() {
    let hostile = Hostile::new();
    let key = "k".repeat(100_000);
    let pickle = dictionary(&[text("w"), tensor(&key, 4, &[4])]);
    hostile.refused(&pickle, &[], "a storage with a name of 100000 bytes");
    let unknown = global(&"\u{1b}x".repeat(1000), "system");
    hostile.refused(&unknown, &[], "it uses \\u{1b}x");
    // One long name for many weights.
    let first = [text(&"n".repeat(1_000_000)), b"q\x00".to_vec()].concat();
    let first = [first, tensor("0", 4, &[4]), b"q\x01".to_vec()].concat();
    let again = b"h\x00h\x01".repeat(100);
    let file = hostile
        .opened(&dictionary(&[first, again]), &[("0", vec![0; 16])])
        .unwrap();
    let error = file.tensors(file.root(), |_| true).unwrap_err();
    assert!(error.to_string().contains(TOO_MUCH), "{error}");
}

/// Weights `w0`, `w1`, …, all the same tensor of 1,000 elements.
fn names_of_one(count: usize) -> Vec<u8> {
    let first = [text("w0"), tensor("0", 1000, &[1000]), b"q\x00".to_vec()].concat();
    let names = (1..count).map(|index| [text(&format!("w{index}")), b"h\x00".to_vec()].concat());
    dictionary(&std::iter::once(first).chain(names).collect::<Vec<_>>())
}

#[test]
fn a_storage_is_read_once_and_not_for_thousands_of_names() {
    let hostile = Hostile::new();
    let values: Vec<u8> = (0..1000u16)
        .flat_map(|v| f32::from(v).to_le_bytes())
        .collect();
    // The file has room for two.
    let padding = ("1", vec![0; 4000]);
    let storages = [("0", values), padding];
    let mut file = hostile.opened(&names_of_one(2), &storages).unwrap();
    let stored = file.tensors(file.root(), |_| true).unwrap();
    let read = file.read_all(&stored).unwrap();
    assert_eq!(read["w0"], read["w1"]);
    assert_eq!(read["w1"].values[999], 999.0);
    let mut file = hostile.opened(&names_of_one(300), &storages).unwrap();
    let stored = file.tensors(file.root(), |_| true).unwrap();
    assert_eq!(stored.len(), 300);
    let error = file.read_all(&stored).unwrap_err().to_string();
    assert!(
        error.contains("300 weights of 1200000 bytes in all"),
        "{error}"
    );
}

#[test]
fn invalid_shapes_are_refused() {
    let hostile = Hostile::new();
    let weight = |shape: &[i64]| dictionary(&[text("w"), tensor("0", 0, shape)]);
    let empty = [("0", Vec::new())];
    for shape in [[0, 1 << 40, 1 << 40], [1 << 40, 1 << 40, 0]] {
        hostile.refused(&weight(&shape), &empty, "elements in a storage of 0");
    }
    hostile.refused(&weight(&[0; 65]), &empty, "a tensor of 65 axes");
    hostile.refused(&weight(&[-1]), &empty, "a negative size");
    hostile.opened(&weight(&[0, 3]), &empty).unwrap();
    hostile.refused(&weight(&[0, 3]), &[], "'archive/data/0' is not in it");
}
