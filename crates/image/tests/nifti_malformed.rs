//! Damaged, foreign and hostile files: refused with one line, at once, in little memory, never a panic. A program of
//! its own for its allocator.

#[path = "../../../tests/golden/nifti/mod.rs"]
mod golden;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use ctseg_image::nifti::{read_header, read_labels, read_volume};

/// Records the largest single allocation, which reveals code that trusts a header.
struct Recording;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Recording {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Recording = Recording;

/// Far above the reader's 1 MiB chunk, far below what the headers here claim.
const ALLOWED: usize = 8 << 20;

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

/// A NIfTI-1 file of 3 x 2 x 2 int16 voxels with `bytes` put at `at`.
fn nifti1(at: usize, bytes: &[u8]) -> Vec<u8> {
    patched("nifti1 little i2", at, bytes)
}

fn patched(case: &str, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = golden::named(case).file;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn shorts(values: &[i16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn longs(values: &[i64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Reads `content` in every way; all must fail quickly with a one-line error that names the file and `cause`.
fn refused(content: &[u8], cause: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.nii.gz");
    std::fs::write(&path, content).unwrap();
    check_refusal(&path, cause);
}

fn check_refusal(path: &Path, cause: &str) {
    let start = Instant::now();
    let errors = [
        read_volume(path).err().map(|error| error.to_string()),
        read_labels(path).err().map(|error| error.to_string()),
    ];
    assert!(start.elapsed() < Duration::from_secs(1), "slow: {cause}");
    for error in errors {
        let error = error.unwrap_or_else(|| panic!("accepted: {cause}"));
        assert!(error.contains(cause), "expected '{cause}' in: {error}");
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < ALLOWED, "{largest} bytes at once: {cause}");
}

#[test]
fn the_undamaged_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("good.nii.gz");
    for content in [nifti1(0, &[]), gzip(&nifti1(0, &[]))] {
        std::fs::write(&path, content).unwrap();
        read_volume(&path).unwrap();
    }
}

#[test]
fn other_file_types_are_named() {
    let folder = tempfile::tempdir().unwrap();
    check_refusal(folder.path(), "a folder; expected a .nii");
    check_refusal(&folder.path().join("none.nii.gz"), "No such file");
    refused(b"", "empty");
    refused(b"ab", "only 2 bytes");
    refused(b"some text, and more of it", "begins with 'some'");
    refused(
        b"PK\x03\x04",
        "a zip archive; expected a NIfTI image; unpack it first",
    );
    refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n",
        "a Git LFS pointer, not the file itself; expected a NIfTI image; fetch the file with 'git lfs pull'",
    );
    refused(
        &gzip(b"some text"),
        "decompressed content: not a NIfTI image",
    );
    refused(&gzip(b""), "decompressed content: empty");
    refused(&gzip(&gzip(&nifti1(0, &[]))), "gzip data inside gzip data");
    let mut dicom = vec![0; 400];
    dicom[128..132].copy_from_slice(b"DICM");
    refused(&dicom, "dcm2niix");
    let link = folder.path().join("z.nii.gz");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../.git/annex/objects/x.nii.gz", &link).unwrap();
        check_refusal(
            &link,
            "which does not exist; fetch the file with 'git annex get'",
        );
    }
    let pair = folder.path().join("x.img");
    std::fs::write(&pair, [7; 400]).unwrap();
    std::fs::write(folder.path().join("x.hdr"), nifti1(344, b"ni1\0")).unwrap();
    check_refusal(&pair, "the voxels of an .hdr/.img pair");
    refused(&nifti1(344, b"ni1\0"), ".hdr/.img pair");
    refused(&patched("nifti2 big u1", 4, b"ni2\0"), ".hdr/.img pair");
    refused(&nifti1(344, &[0; 4]), "Analyze 7.5");
    refused(&nifti1(344, b"n+2\0"), "magic is 'n+2\\x00'");
    refused(&patched("nifti2 little u1", 8, b"\n\x1a\n\0"), "text mode");
    refused(&nifti1(0, &[0; 4]), "expected a header size of 348 or 540");
}

#[test]
fn impossible_shapes_are_refused() {
    let dim2 = |dims: &[i64]| patched("nifti2 little i2", 16, &longs(dims));
    refused(&nifti1(40, &shorts(&[0])), "has 0 dimensions");
    refused(&nifti1(40, &shorts(&[1])), "has 1 dimensions");
    refused(&nifti1(40, &shorts(&[8])), "has 8 dimensions");
    refused(&nifti1(40, &shorts(&[-3])), "has -3 dimensions");
    refused(
        &nifti1(40, &shorts(&[3, 3, 0, 2])),
        "[3, 0, 2], one of them 0",
    );
    refused(&nifti1(40, &shorts(&[3, -3, 2, 2])), "one of them -3");
    refused(&nifti1(40, &shorts(&[4, 3, 2, 1, 2])), "holds 2 volumes");
    refused(&nifti1(40, &shorts(&[5, 1, 2, 1, 3, 2])), "holds 6 volumes");
    refused(
        &dim2(&[3, i64::MAX, 2, 2]),
        "more voxels than any memory holds",
    );
    refused(
        &dim2(&[3, 1 << 40, 1 << 40, 1 << 40]),
        "more voxels than any memory",
    );
    refused(
        &dim2(&[7, 1, 1, 1, i64::MAX, i64::MAX, 2, 2]),
        "more voxels than any",
    );
    refused(
        &dim2(&[3, i64::MIN, 2, 2]),
        "one of them -9223372036854775808",
    );
}

#[test]
fn values_on_surfaces_are_refused() {
    let hacked = |dims: &[i16], glmin: i32| {
        let mut file = nifti1(40, &shorts(dims));
        file[144..148].copy_from_slice(&glmin.to_le_bytes());
        file
    };
    refused(
        &hacked(&[3, -1, 1, 1], 163_842),
        "values of the 163842 vertices of a surface, as FreeSurfer writes them; expected a volume",
    );
    refused(
        &hacked(&[3, 27_307, 1, 6], 0),
        "163842 vertices of a surface",
    );
    refused(
        &hacked(&[3, 10_242, 1, 1], 0),
        "10242 vertices of a surface",
    );
    let cifti = patched("nifti2 little i2", 504, &3002i32.to_le_bytes());
    refused(&cifti, "CIFTI-2 data of a surface");
}

#[test]
fn headers_that_declare_too_much_are_refused_without_allocating() {
    // 2^40 voxels in a file of a few hundred bytes, plain and compressed.
    let huge2 = patched(
        "nifti2 little f8",
        16,
        &longs(&[3, 1 << 20, 1 << 10, 1 << 10]),
    );
    refused(&huge2, "8796093022752 expected");
    refused(&gzip(&huge2), "declares 8796093022752 bytes");
    // 8 GB in NIfTI-1.
    let huge1 = nifti1(40, &shorts(&[3, 2000, 2000, 1000]));
    refused(&huge1, "8000000352 expected");
    refused(&gzip(&huge1), "declares 8000000352 bytes");
    // The maximum that so few gzip bytes could contain.
    let plausible = gzip(&nifti1(40, &shorts(&[3, 100, 40, 10])));
    refused(&plausible, "376 bytes found, exactly 80352 expected");
}

#[test]
fn invalid_offsets_are_refused() {
    let offset1 = |offset: f32| nifti1(108, &offset.to_le_bytes());
    for offset in [0.0, 351.0, -352.0, 352.5, f32::NAN, f32::INFINITY, 3e38] {
        refused(&offset1(offset), "voxels begin at byte");
    }
    refused(
        &offset1(1e9),
        "376 bytes found, exactly 1000000024 expected",
    );
    refused(&gzip(&offset1(1e9)), "declares 1000000024 bytes");
    refused(
        &gzip(&offset1(1e4)),
        "376 bytes found, exactly 10024 expected",
    );
    for offset in [0, 543, -544, i64::MAX, i64::MIN] {
        refused(
            &patched("nifti2 little i2", 168, &longs(&[offset])),
            "begin at byte",
        );
    }
}

#[test]
fn voxels_that_are_not_numbers_are_refused() {
    for (code, name) in [
        (0, "unknown voxels"),
        (1, "one-bit"),
        (32, "complex64"),
        (128, "RGB colours"),
        (1536, "float128"),
        (1792, "complex128"),
        (2048, "complex256"),
        (2304, "RGBA colours"),
        (3, "datatype 3 is not a NIfTI code"),
        (-4, "datatype -4 is not a NIfTI code"),
    ] {
        refused(&nifti1(70, &shorts(&[code])), name);
    }
    let mut scaled = nifti1(112, &2f32.to_le_bytes());
    scaled[116..120].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(&scaled, "scl_inter is NaN");
}

#[test]
fn unusable_affines_are_refused() {
    refused(&nifti1(280, &[0; 16]), "from its sform is singular");
    refused(&nifti1(280, &f32::NAN.to_le_bytes()), "not finite");
    refused(&nifti1(292, &f32::INFINITY.to_le_bytes()), "not finite");
    let row = golden::named("nifti1 little i2").file[280..296].to_vec();
    refused(&nifti1(296, &row), "singular");
    let mut qform = nifti1(252, &shorts(&[1, 0]));
    qform[256..260].copy_from_slice(&3f32.to_le_bytes());
    refused(&qform, "quaternion has length 3.000");
    let mut spacing = nifti1(254, &[0; 2]);
    spacing[80..84].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(&spacing, "from its voxel size");
}

#[test]
fn missing_and_extra_bytes_are_refused() {
    let whole = nifti1(0, &[]);
    refused(&whole[..200], "within its header: 200 bytes found");
    refused(&whole[..349], "349 bytes found, exactly 376 expected");
    refused(&whole[..375], "375 bytes found, exactly 376 expected");
    refused(
        &gzip(&whole[..375]),
        "375 bytes found, exactly 376 expected",
    );
    let second = golden::named("nifti2 big i2").file;
    refused(&second[..400], "400 bytes found, at least 544 expected");
    refused(
        &gzip(&second[..400]),
        "400 bytes found, at least 544 expected",
    );
    let longer = [whole.as_slice(), b"?"].concat();
    for longer in [longer.clone(), gzip(&longer)] {
        refused(&longer, "data follow the voxels that its header declares");
    }
    let more = [gzip(&whole), gzip(b"?")].concat();
    refused(&more, "(376 bytes expected for 3 x 2 x 2 voxels of int16)");
    refused(&[&whole[..], &[0; 999], b"?"].concat(), "data follow the");
}

#[test]
fn damaged_gzip_is_refused() {
    // Incompressible voxels, so that a cut or a flipped bit hits them.
    let mut content = nifti1(40, &shorts(&[3, 50, 40, 20]));
    content.truncate(352);
    let mut state = 1u32;
    content.extend((0..80_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    }));
    let whole = gzip(&content);
    for cut in [3, 12, 5000, whole.len() - 9, whole.len() - 1] {
        refused(&whole[..cut], "truncated gzip data: ends after");
    }
    refused(
        &whole[..5000],
        "80352 bytes expected for 50 x 40 x 20 voxels of int16",
    );
    for at in [whole.len() - 8, whole.len() - 2, whole.len() / 2] {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        refused(&bad, "corrupt gzip data after");
    }
    let mut header = whole.clone();
    header[2] = 7;
    refused(&header, "corrupt gzip data after 0 decompressed bytes");
    for garbage in ["garbage", "\0\0\0\0garbage"] {
        let tail = [whole.as_slice(), garbage.as_bytes()].concat();
        refused(&tail, "bytes that are not gzip follow its end");
    }
    let tail = [whole.as_slice(), b"\x1f?"].concat();
    refused(&tail, "gzip data");
}

/// A file truncated or changed in a few places, compressed before, after, or not at all.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let cases = golden::cases();
    let change = (0usize..800, any::<u8>());
    let changes = prop::collection::vec(change, 0..6);
    (0..cases.len(), changes, 0usize..1200, 0..4).prop_map(move |(case, changes, cut, how)| {
        let mut content = cases[case].file.clone();
        if how == 2 {
            content = gzip(&content);
        }
        let length = content.len();
        for (at, byte) in changes {
            content[at % length] = byte;
        }
        if cut < length && how != 3 {
            content.truncate(cut);
        }
        if how == 1 { gzip(&content) } else { content }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn mutated_files_neither_panic_nor_allocate_much(content in mutated()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fuzz.nii");
        std::fs::write(&path, &content).unwrap();
        let volume = read_volume(&path);
        let labels = read_labels(&path);
        if let Ok(image) = &volume {
            let grid = image.volume.grid;
            prop_assert_eq!(image.volume.data.len(), grid.voxels());
            prop_assert!(grid.is_invertible());
            prop_assert!(read_header(&path).is_ok());
        }
        // Every label map is also an image.
        prop_assert!(labels.is_err() || volume.is_ok());
        for error in [volume.err(), labels.err()].into_iter().flatten() {
            prop_assert!(!error.to_string().contains('\n'));
        }
        prop_assert!(LARGEST.load(Ordering::Relaxed) < ALLOWED);
    }
}
