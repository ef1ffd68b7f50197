//! Benchmark of reading and writing NIfTI files; prints one JSON line for scripts/bench_nifti.py.
//!
//! Arguments: repetitions, folder for the files, an image and a label map on its grid (.nii.gz). Both are read and
//! written, and also compressed as a single stream at the same level, as single-threaded programs do. Seconds are the
//! minimum over the repetitions; `cpu` is the minimum CPU time of all threads, which depends less on other load.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ctseg_image::nifti::{
    VoxelType, read_labels, read_volume, write_labels, write_mask, write_volume,
};
use flate2::Compression;
use flate2::write::GzEncoder;

/// As in `crates/image/src/nifti/gzip.rs`.
const LEVEL: u32 = 3;

fn main() {
    // Cargo passes --bench to every benchmark.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [repetitions, folder, image, labels] = arguments.as_slice() else {
        println!("{{}}");
        return;
    };
    let repetitions = repetitions.parse().expect("repetitions");
    let folder = PathBuf::from(folder);
    let image_path = Path::new(image);
    let (header, labels) = read_labels(Path::new(labels)).expect("labels");
    let image = read_volume(image_path).expect("image");
    let [ct, map, mask] =
        ["ct.nii.gz", "labels.nii.gz", "mask.nii.gz"].map(|name| folder.join(name));
    let stored = |path: &Path| std::fs::metadata(path).expect("file").len();
    let mut cpu = serde_json::Map::new();
    let mut best = |name: &str, work: &dyn Fn()| {
        let (mut least_s, mut least_cpu_s) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..repetitions {
            let (started, before) = (Instant::now(), cpu_s());
            work();
            least_s = least_s.min(started.elapsed().as_secs_f64());
            least_cpu_s = least_cpu_s.min(cpu_s() - before);
        }
        cpu.insert(name.to_owned(), least_cpu_s.into());
        least_s
    };
    let bytes: Vec<u8> = labels.data.iter().map(|label| *label as u8).collect();
    let hounsfield: Vec<u8> = image
        .volume
        .data
        .iter()
        .flat_map(|hu| (*hu as i16).to_le_bytes())
        .collect();
    let mut report = serde_json::json!({
        "threads": rayon::current_num_threads(), "shape": image.volume.grid.shape,
        "write_labels_s": best("write_labels_s", &|| write_labels(&map, &labels, &header).expect("labels")),
        "write_mask_s": best("write_mask_s", &|| {
            let all = labels.data.as_slice().expect("standard layout");
            write_mask(&mask, &header, &|voxels, inside| {
                for (inside, label) in inside.iter_mut().zip(&all[voxels]) {
                    *inside = u8::from(*label == 5);
                }
            })
            .expect("mask");
        }),
        "write_volume_s": best("write_volume_s", &|| write_volume(&ct, &image.volume, VoxelType::I16).expect("volume")),
        "one_stream_labels_s": best("one_stream_labels_s", &|| one_stream(&folder, &bytes)),
        "one_stream_volume_s": best("one_stream_volume_s", &|| one_stream(&folder, &hounsfield)),
        "read_volume_s": best("read_volume_s", &|| drop(read_volume(image_path).expect("image"))),
        "read_labels_s": best("read_labels_s", &|| drop(read_labels(&map).expect("labels"))),
        "labels_bytes": stored(&map), "mask_bytes": stored(&mask), "volume_bytes": stored(&ct),
    });
    report["cpu"] = cpu.into();
    println!("{report}");
}

/// User and system time of the process so far, in seconds, assuming 100 clock ticks per second.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|text| text.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

fn one_stream(folder: &Path, bytes: &[u8]) {
    let file = std::fs::File::create(folder.join("one_stream.gz")).expect("file");
    let mut gzip = GzEncoder::new(file, Compression::new(LEVEL));
    gzip.write_all(bytes).expect("written");
    gzip.finish().expect("written").sync_all().expect("synced");
}
