//! The file system of a path.

use std::path::{Path, PathBuf};

use ctseg_base::limits::cgroup::unescaped;

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    /// Such as `ext4`, `nfs4`, `lustre`, `overlay`.
    pub kind: String,
    /// Such as `/dev/sda1`, `server:/export`.
    pub source: String,
    pub is_read_only: bool,
}

impl Mount {
    /// The mount of `path` in `mountinfo` (proc_pid_mountinfo(5)): the innermost one, and the last of several at the
    /// same point. `path` must be absolute and without symbolic links.
    pub fn around(path: &Path, mountinfo: &str) -> Option<Self> {
        let around = mountinfo
            .lines()
            .filter_map(Self::parsed)
            .filter(|mount| path.starts_with(&mount.point));
        around.max_by_key(|mount| mount.point.components().count())
    }

    /// `id parent major:minor root point options [tag]... - type source options`
    fn parsed(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(4);
        let (point, own) = (unescaped(mount.next()?), mount.next()?);
        let mut filesystem = filesystem.split(' ');
        let (kind, source) = (filesystem.next()?, filesystem.next()?);
        let all = filesystem.next().unwrap_or_default();
        let is_ro = |options: &str| options.split(',').any(|option| option == "ro");
        Some(Self {
            point: point.into(),
            kind: kind.to_owned(),
            source: unescaped(source),
            is_read_only: is_ro(own) || is_ro(all),
        })
    }
}

impl std::fmt::Display for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.source)?;
        if self.point != Path::new("/") {
            write!(f, " at {}", self.point.display())?;
        }
        if self.is_read_only {
            write!(f, ", read-only")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_last_mount_is_found() {
        let text = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            30 22 0:25 / /data ro,relatime - nfs4 store:/export/data rw,vers=4.2\n\
            31 22 0:26 / /scratch rw - tmpfs none rw\n\
            32 22 0:27 / /scratch rw - lustre 10.0.0.1@tcp:/work rw\n\
            33 22 0:28 / /my\\040runs rw - ext4 /dev/sdb1 ro,errors=remount-ro\n";
        let shown = |path: &str| Mount::around(Path::new(path), text).unwrap().to_string();
        assert_eq!(shown("/home/x"), "ext4 /dev/sda1");
        assert_eq!(shown("/database"), "ext4 /dev/sda1");
        let nfs = "nfs4 store:/export/data at /data, read-only";
        assert_eq!(shown("/data/a/b"), nfs);
        assert_eq!(shown("/scratch"), "lustre 10.0.0.1@tcp:/work at /scratch");
        let remounted = "ext4 /dev/sdb1 at /my runs, read-only";
        assert_eq!(shown("/my runs/1"), remounted);
        assert_eq!(Mount::around(Path::new("/"), "nonsense"), None);
    }
}
