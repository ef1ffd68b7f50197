//! The libtorch loaded by this process: its folder, version and CUDA version.

use std::path::{Path, PathBuf};

use ctseg_base::limits::host::Host;
use ctseg_base::text::file::read_text;

/// The CUDA runtime.
const RUNTIME: &str = "libcudart.so";

/// A loaded libtorch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LibTorch {
    /// The folder of its libraries.
    pub folder: PathBuf,
    /// Such as `2.11.0+cu130`, if known.
    pub version: Option<String>,
    /// Major and, if known, minor version of its CUDA; `None` for CPU builds.
    pub cuda: Option<(u32, Option<u32>)>,
}

impl LibTorch {
    /// `None` if none is loaded.
    pub fn loaded(host: &Host) -> Option<Self> {
        let maps = host.read("/proc/self/maps")?;
        let of = |name: &str| libraries(&maps).find(|path| is_library(path, name));
        let folder = of("libtorch_cpu.so")?.parent()?.to_path_buf();
        let version = version_beside(&folder);
        let own = version.as_deref().and_then(cuda_in_version);
        let runtime = libraries(&maps).find_map(|path| soname_number(path, RUNTIME));
        let runtime = runtime.or_else(|| runtime_beside(&folder));
        let cuda = own.or_else(|| runtime.map(|major| (major, None)));
        // CPU builds do not have this library. Without a driver it exists but is not loaded.
        let has_cuda = of("libtorch_cuda.so").is_some() || folder.join("libtorch_cuda.so").exists();
        Some(Self {
            folder,
            version,
            cuda: has_cuda.then(|| cuda.unwrap_or((DEFAULT_CUDA, None))),
        })
    }

    /// `CUDA 13.0`
    pub fn cuda_name(&self) -> Option<String> {
        let (major, minor) = self.cuda?;
        Some(match minor {
            Some(minor) => format!("CUDA {major}.{minor}"),
            None => format!("CUDA {major}"),
        })
    }
}

/// Major version of the CUDA runtime in libtorch's folder, or in `nvidia/*/lib` beside `torch` as in PyTorch's wheels.
fn runtime_beside(folder: &Path) -> Option<u32> {
    let packages = folder.parent().and_then(Path::parent);
    let nvidia = packages.and_then(|packages| std::fs::read_dir(packages.join("nvidia")).ok());
    let nvidia = nvidia.into_iter().flatten().flatten();
    let folders = nvidia.map(|entry| entry.path().join("lib"));
    let mut files = std::iter::once(folder.to_path_buf())
        .chain(folders)
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten());
    files.find_map(|entry| soname_number(&entry.path(), RUNTIME))
}

/// Mapped files in `/proc/self/maps` (proc_pid_maps(5)).
fn libraries(maps: &str) -> impl Iterator<Item = &Path> {
    maps.lines().filter_map(|line| {
        let path = &line[line.find('/')?..];
        Some(Path::new(path.trim_end()))
    })
}

fn is_library(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|own| own == name)
}

/// 13 for `libcudart.so.13` and `libcudart.so.13.0.96`, also with a hash in the name.
fn soname_number(path: &Path, name: &str) -> Option<u32> {
    let own = path.file_name()?.to_str()?;
    let (stem, number) = own.split_once(".so.")?;
    let wanted = name.strip_suffix(".so").unwrap_or(name);
    let is_it = stem == wanted
        || stem
            .strip_prefix(wanted)
            .is_some_and(|rest| rest.starts_with('-'));
    is_it
        .then(|| number.split('.').next()?.parse().ok())
        .flatten()
}

/// The version from `torch/version.py` beside `torch/lib` (PyTorch's wheels) or `build-version` (libtorch's archives).
fn version_beside(folder: &Path) -> Option<String> {
    let around = folder.parent()?;
    let of_archive = read_text(&around.join("build-version")).ok();
    let of_wheel = || {
        let text = read_text(&around.join("version.py")).ok()?;
        let line = text.lines().find(|line| line.starts_with("__version__"))?;
        Some(line.split(['\'', '"']).nth(1)?.to_owned())
    };
    let version = of_archive
        .map(|text| text.trim().to_owned())
        .or_else(of_wheel);
    version.filter(|text| !text.is_empty())
}

/// 13 and 0 for `2.11.0+cu130`.
fn cuda_in_version(version: &str) -> Option<(u32, Option<u32>)> {
    let (_, digits) = version.split_once("+cu")?;
    let digits = digits.split(|c: char| !c.is_ascii_digit()).next()?;
    let (major, minor) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
    Some((major.parse().ok()?, minor.parse().ok()))
}

/// CUDA version of the libtorch installed by `scripts/setup-libtorch.sh`.
pub(super) const DEFAULT_CUDA: u32 = 13;

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(folder: &Path, names: &[&str]) -> String {
        let line = |name: &&str| {
            format!(
                "7f0000000000-7f0000001000 r-xp 00000000 08:01 42                         {}\n",
                folder.join(name).display()
            )
        };
        "00400000-00401000 r-xp 00000000 00:00 0 [vdso]\n".to_owned()
            + &names.iter().map(line).collect::<String>()
    }

    #[test]
    fn the_loaded_libtorch_is_found_in_the_mapped_files() {
        let root = tempfile::tempdir().unwrap();
        let lib = root.path().join("my torch/lib");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let loaded = |names: &[&str]| {
            std::fs::write(root.path().join("proc/self/maps"), maps(&lib, names)).unwrap();
            LibTorch::loaded(&Host::with_root(root.path()))
        };
        assert_eq!(loaded(&["libc.so.6"]), None);
        let cpu = loaded(&["libc.so.6", "libtorch_cpu.so"]).unwrap();
        assert_eq!((&cpu.folder, cpu.version, cpu.cuda), (&lib, None, None));
        let with_gpus = ["libtorch_cpu.so", "libtorch_cuda.so", "libcudart.so.12"];
        let known = loaded(&with_gpus).unwrap();
        assert_eq!(known.cuda_name().unwrap(), "CUDA 12");
        let text = "from typing import Optional\n\n__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\n";
        std::fs::write(lib.parent().unwrap().join("version.py"), text).unwrap();
        let wheel = loaded(&with_gpus).unwrap();
        assert_eq!(wheel.version.as_deref(), Some("2.11.0+cu130"));
        assert_eq!(wheel.cuda, Some((13, Some(0))));
        // Its GPU libraries do not exist.
        assert_eq!(loaded(&["libtorch_cpu.so"]).unwrap().cuda, None);
        // They exist but are not loaded.
        std::fs::write(lib.join("libtorch_cuda.so"), "").unwrap();
        let known = loaded(&["libtorch_cpu.so"]).unwrap();
        assert_eq!(known.cuda, Some((13, Some(0))));
        // Without a version, the CUDA version follows from the files.
        std::fs::remove_file(lib.parent().unwrap().join("version.py")).unwrap();
        let runtime = root.path().join("nvidia/cu12/lib/libcudart.so.12");
        std::fs::create_dir_all(runtime.parent().unwrap()).unwrap();
        std::fs::write(&runtime, "").unwrap();
        let known = loaded(&["libtorch_cpu.so"]).unwrap();
        assert_eq!(known.cuda, Some((12, None)));
    }

    #[test]
    fn versions_are_parsed() {
        assert_eq!(cuda_in_version("2.11.0+cu128"), Some((12, Some(8))));
        assert_eq!(cuda_in_version("2.11.0+cpu"), None);
        assert_eq!(cuda_in_version("2.11.0+cu"), None);
        let number = |name: &str| soname_number(Path::new(name), "libcudart.so");
        assert_eq!(number("/x/libcudart-d0da41ae.so.11.0"), Some(11));
        assert_eq!(number("/x/libcudart.so.13"), Some(13));
        assert_eq!(number("/x/libcudarts.so.13"), None);
        assert_eq!(number("/x/libcudart.so"), None);
    }
}
