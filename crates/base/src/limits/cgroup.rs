//! The cgroups of this process, as far as they are mounted.

use std::path::{Component, Path, PathBuf};

use super::host::Host;

/// A cgroup hierarchy: the unified one of cgroup v2, or the one of a v1 controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    Unified,
    Controller(&'static str),
}

/// Folders of the process's cgroup and its ancestors, innermost first for each mount; empty without cgroups.
pub fn folders(host: &Host, hierarchy: Hierarchy) -> Vec<PathBuf> {
    let groups = host.read("/proc/self/cgroup");
    let mounts = host.read("/proc/self/mountinfo");
    match (groups, mounts) {
        (Some(groups), Some(mounts)) => folders_in(hierarchy, &groups, &mounts, host.root()),
        _ => Vec::new(),
    }
}

/// [`folders`] from the texts of `/proc/self/cgroup` (`groups`) and `/proc/self/mountinfo` (`mounts`), below `root`.
fn folders_in(hierarchy: Hierarchy, groups: &str, mounts: &str, root: &Path) -> Vec<PathBuf> {
    let Some(group) = groups.lines().find_map(|line| hierarchy.group(line)) else {
        return Vec::new();
    };
    let group = Path::new(group);
    if group.components().any(|part| part == Component::ParentDir) {
        return Vec::new(); // outside the cgroup namespace, so not below any mount either
    }
    let mut folders = Vec::new();
    for (mounted, point) in mounts.lines().filter_map(|line| hierarchy.mount(line)) {
        let below = point.strip_prefix("/").map(|point| root.join(point));
        if let (Ok(inside), Ok(point)) = (group.strip_prefix(&mounted), below) {
            let own = point.join(inside);
            let ancestors = own.ancestors();
            let ancestors = ancestors.take_while(|folder| folder.starts_with(&point));
            folders.extend(ancestors.map(Path::to_path_buf));
        }
    }
    folders
}

impl Hierarchy {
    /// The group in a line of proc_pid_cgroup(5), `id:controller,controller:group`, if it is of this hierarchy.
    fn group<'a>(&self, line: &'a str) -> Option<&'a str> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let own = match self {
            Self::Unified => line.starts_with("0::"),
            Self::Controller(name) => controllers.split(',').any(|other| other == *name),
        };
        own.then_some(group)
    }

    /// The group at the mount's root and the mount point, if the line of mountinfo mounts this hierarchy.
    ///
    /// Format: proc_pid_mountinfo(5), `id parent major:minor root point options [tag]... - type source options`.
    fn mount(&self, line: &str) -> Option<(PathBuf, PathBuf)> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let kind = filesystem.next()?;
        let own = match self {
            Self::Unified => kind == "cgroup2",
            Self::Controller(name) => {
                let options = filesystem.nth(1)?;
                kind == "cgroup" && options.split(',').any(|option| option == *name)
            }
        };
        if !own {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let group = unescaped(fields.next()?);
        Some((group.into(), unescaped(fields.next()?).into()))
    }
}

/// Decodes the octal escapes of mountinfo: space, tab, line break, backslash.
pub fn unescaped(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (code, character)| {
        text.replace(code, character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_groups_are_found_by_their_controller() {
        let groups = "5:memory:/jobs/7\n3:cpu,cpuacct:/jobs\n0::/other\n";
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
            33 31 0:30 /jobs /mnt/a\\040cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = |hierarchy| folders_in(hierarchy, groups, mounts, Path::new("/r"));
        let memory = found(Hierarchy::Controller("memory"));
        let expected = ["memory/jobs/7", "memory/jobs", "memory"];
        let expected = expected.map(|folder| Path::new("/r/sys/fs/cgroup").join(folder));
        assert_eq!(memory, expected);
        assert_eq!(
            found(Hierarchy::Controller("cpuacct")),
            [Path::new("/r/mnt/a cpu")]
        );
        assert_eq!(found(Hierarchy::Controller("pids")), [] as [PathBuf; 0]);
        let unified = Path::new("/r/sys/fs/cgroup/unified");
        assert_eq!(
            found(Hierarchy::Unified),
            [unified.join("other"), unified.to_path_buf()]
        );
    }
}
