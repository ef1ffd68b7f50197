//! Links that lead out of the output folder: their targets are never written or removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ctseg_base::atomic_file::parent_of;
use ctseg_base::{Error, Result};

/// Refuses `files` of a case (relative to the label map's folder) in a folder that is a link out of the output
/// folder, where they would replace other files.
///
/// # Errors
/// There is such a link; the message names it.
pub fn refuse_links_out(output: &Path, files: &[PathBuf]) -> Result<()> {
    let below = parent_of(output);
    let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    match folders.into_iter().find(|folder| leads_out(below, folder)) {
        None => Ok(()),
        Some(folder) => Err(Error::file(
            below.join(folder),
            "is a link to a path outside the output folder; expected a folder, or a path that does not exist: remove the link, or choose another -o",
        )),
    }
}

/// Whether `folder`, a path below `root`, is outside `root` after resolving links. A missing folder will be created
/// and is not outside.
pub(super) fn leads_out(root: &Path, folder: &Path) -> bool {
    let path = root.join(folder);
    let mut folders = path.ancestors().take(folder.components().count());
    let Some(there) = folders.find(|path| path.symlink_metadata().is_ok()) else {
        return false;
    };
    match (there.canonicalize(), root.canonicalize()) {
        (Ok(real), Ok(root)) => !real.starts_with(root),
        _ => true, // a broken link
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_refused_where_they_lead_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["out/plain", "out/deep/case", "elsewhere"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        symlink(at("elsewhere"), at("out/link")).unwrap();
        symlink(at("none"), at("out/nowhere")).unwrap();
        symlink(at("out/plain"), at("out/inside")).unwrap();
        symlink(at("out"), at("other")).unwrap();
        for (name, expected) in [
            ("", false),
            ("plain", false),
            ("deep/case", false),
            ("to/be/made", false),
            ("inside", false),
            ("link", true),
            ("link/below", true),
            ("nowhere", true),
        ] {
            for out in ["out", "other"] {
                assert_eq!(leads_out(&at(out), Path::new(name)), expected, "{name}");
            }
        }
        let output = at("out/link.nii.gz");
        refuse_links_out(
            &output,
            &["link.nii.gz".into(), "plain/liver.nii.gz".into()],
        )
        .unwrap();
        let error = refuse_links_out(&output, &["link/liver.nii.gz".into()]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("out/link: is a link to a path outside"),
            "{error}"
        );
    }
}
