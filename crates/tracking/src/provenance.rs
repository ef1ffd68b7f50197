//! Provenance tags of a run: command, user, machine, job, and the commit of the working folder. Tags with `mlflow.` are
//! MLflow's own (`mlflow/utils/mlflow_tags.py`), which its UI shows.

use std::path::{Path, PathBuf};

use ctseg_base::text::file::read_text;

/// Job tags with their environment variables; the first variable that is set counts.
const JOB: [(&str, &[&str]); 14] = [
    ("ctseg.slurm.job_id", &["SLURM_JOB_ID"]),
    ("ctseg.slurm.job_name", &["SLURM_JOB_NAME"]),
    ("ctseg.slurm.array_job_id", &["SLURM_ARRAY_JOB_ID"]),
    ("ctseg.slurm.array_task_id", &["SLURM_ARRAY_TASK_ID"]),
    ("ctseg.slurm.restart_count", &["SLURM_RESTART_COUNT"]),
    ("ctseg.slurm.cluster", &["SLURM_CLUSTER_NAME"]),
    ("ctseg.slurm.partition", &["SLURM_JOB_PARTITION"]),
    ("ctseg.slurm.node", &["SLURMD_NODENAME"]),
    ("ctseg.pbs.job_id", &["PBS_JOBID"]),
    ("ctseg.lsf.job_id", &["LSB_JOBID"]),
    ("ctseg.kubernetes.job_index", &["JOB_COMPLETION_INDEX"]),
    // Set only by a manifest, such as those in scripts/k8s.
    ("ctseg.kubernetes.job", &["KUBERNETES_JOB_NAME"]),
    ("ctseg.kubernetes.namespace", &["POD_NAMESPACE"]),
    ("ctseg.kubernetes.node", &["NODE_NAME"]),
];

/// The tags of this process; unknown values are left out.
pub fn tags() -> Vec<(String, String)> {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let folder = std::env::current_dir().unwrap_or_default();
    let known = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    tags_of(&arguments, &folder, &known)
}

fn tags_of(
    arguments: &[String],
    folder: &Path,
    known: &dyn Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host.map(|name| name.trim().to_owned());
    let host = host.filter(|name| !name.is_empty());
    // By default a pod's host name is the pod's name.
    let pod = known("POD_NAME").or_else(|| {
        known("KUBERNETES_SERVICE_HOST")?;
        known("HOSTNAME").or_else(|| host.clone())
    });
    let job = JOB.map(|(tag, variables)| (tag, variables.iter().find_map(|name| known(name))));
    let is_job = pod.is_some() || job.iter().any(|(_, value)| value.is_some());
    let kind = if is_job { "JOB" } else { "LOCAL" };
    let users = ["USER", "LOGNAME", "USERNAME"];
    let user = users.iter().find_map(|name| known(name)).or_else(own_name);
    let own = [
        ("mlflow.source.name", Some(command_line(arguments))),
        ("mlflow.source.type", Some(kind.to_owned())),
        ("mlflow.source.git.commit", git_commit(folder)),
        ("mlflow.user", user),
        ("ctseg.host", host),
        ("ctseg.kubernetes.pod", pod),
    ];
    let tags = own.into_iter().chain(job);
    tags.filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// The command line, without the program's folder and without credentials in addresses.
fn command_line(arguments: &[String]) -> String {
    let mut words = arguments.iter();
    let program = words.next().map(|path| {
        let name = Path::new(path).file_name();
        name.map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned())
    });
    let words = words.map(|word| quoted(&without_secrets(word)));
    let all: Vec<String> = program.into_iter().chain(words).collect();
    all.join(" ")
}

/// Replaces user and password in addresses (`https://user:password@host`) with `***`.
fn without_secrets(text: &str) -> String {
    let mut clean = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean += before;
        let end = after.find(['/', '?', '#', ' ']).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                clean += "***";
                &after[at..]
            }
            None => after,
        };
    }
    clean + rest
}

/// Quoted if a shell would split or change it.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "_-./=:,@%+*".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The user name for this process's UID, from `/etc/passwd`.
fn own_name() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let own = line.split_whitespace().nth(1)?;
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == own).then(|| name.to_owned())
    })
}

/// The commit checked out in the git repository around `folder`; `None` without a repository or a commit. See
/// gitrepository-layout(5).
fn git_commit(folder: &Path) -> Option<String> {
    let git = folder
        .ancestors()
        .find_map(|folder| git_folder(&folder.join(".git")))?;
    let head = read_text(&git.join("HEAD")).ok()?;
    let Some(branch) = head.strip_prefix("ref:") else {
        return commit_in(&head);
    };
    let branch = branch.trim();
    // A worktree shares its branches with its repository.
    let shared = match read_text(&git.join("commondir")) {
        Ok(path) => git.join(path.trim()),
        Err(_) => git.clone(),
    };
    let of_file = |folder: &Path| commit_in(&read_text(&folder.join(branch)).ok()?);
    of_file(&git).or_else(|| of_file(&shared)).or_else(|| {
        let packed = read_text(&shared.join("packed-refs")).ok()?;
        packed.lines().find_map(|line| {
            let (commit, name) = line.split_once(' ')?;
            (name == branch).then(|| commit_in(commit)).flatten()
        })
    })
}

/// `.git`: the folder, or a file that names it (of worktrees and submodules).
fn git_folder(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return path.join("HEAD").is_file().then(|| path.to_path_buf());
    }
    let text = read_text(path).ok()?;
    let named = text.strip_prefix("gitdir:")?.trim();
    Some(path.parent()?.join(named))
}

/// A hash of 160 or 256 bits.
fn commit_in(text: &str) -> Option<String> {
    let text = text.trim();
    let is_hash = matches!(text.len(), 40 | 64) && text.chars().all(|c| c.is_ascii_hexdigit());
    is_hash.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags_with(environment: &[(&str, &str)]) -> Vec<(String, String)> {
        let known = |name: &str| {
            let mut found = environment.iter().filter(|(own, _)| *own == name);
            found.next().map(|(_, value)| (*value).to_owned())
        };
        let arguments = ["/usr/bin/ctseg", "fit", "--stage", "1"].map(str::to_owned);
        tags_of(&arguments, Path::new("/"), &known)
    }

    fn of<'a>(tags: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let mut found = tags.iter().filter(|(own, _)| own == name);
        found.next().map(|(_, value)| value.as_str())
    }

    #[test]
    fn jobs_are_distinguished_from_local_runs() {
        let local = tags_with(&[("USER", "ada")]);
        assert_eq!(of(&local, "mlflow.source.type"), Some("LOCAL"));
        assert_eq!(of(&local, "mlflow.user"), Some("ada"));
        assert_eq!(
            of(&local, "mlflow.source.name"),
            Some("ctseg fit --stage 1")
        );
        assert_eq!(of(&local, "ctseg.kubernetes.pod"), None);
        let slurm = [
            ("SLURM_JOB_ID", "71"),
            ("SLURM_ARRAY_JOB_ID", "70"),
            ("SLURM_ARRAY_TASK_ID", "3"),
            ("SLURM_RESTART_COUNT", "2"),
            ("SLURMD_NODENAME", "gpu07"),
        ];
        let slurm = tags_with(&slurm);
        assert_eq!(of(&slurm, "mlflow.source.type"), Some("JOB"));
        assert_eq!(of(&slurm, "ctseg.slurm.job_id"), Some("71"));
        assert_eq!(of(&slurm, "ctseg.slurm.array_task_id"), Some("3"));
        assert_eq!(of(&slurm, "ctseg.slurm.restart_count"), Some("2"));
        assert_eq!(of(&slurm, "ctseg.slurm.node"), Some("gpu07"));
        let pod = [
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("HOSTNAME", "fit-x2b7"),
            ("KUBERNETES_JOB_NAME", "ctseg-fit-1"),
        ];
        let pod = tags_with(&pod);
        assert_eq!(of(&pod, "mlflow.source.type"), Some("JOB"));
        assert_eq!(of(&pod, "ctseg.kubernetes.pod"), Some("fit-x2b7"));
        assert_eq!(of(&pod, "ctseg.kubernetes.job"), Some("ctseg-fit-1"));
    }

    #[test]
    fn commands_contain_no_passwords() {
        for (words, shown) in [
            (vec!["ctseg", "--set", "name=a b"], "ctseg --set 'name=a b'"),
            (vec!["a/b/ctseg", "it's"], r"ctseg 'it'\''s'"),
            (
                vec!["ctseg", "--uri=https://me:p@ss/w@host:5000/x?y"],
                "ctseg '--uri=https://***@ss/w@host:5000/x?y'",
            ),
            (
                vec!["ctseg", "https://me:pass@host:5000/x,http://b:c@d"],
                "ctseg https://***@host:5000/x,http://***@d",
            ),
            (vec!["ctseg", "http://host/@x"], "ctseg http://host/@x"),
        ] {
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            assert_eq!(command_line(&words), shown);
        }
    }

    #[test]
    fn the_commit_is_found_in_every_layout() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let commit = |path: &str| git_commit(&folder.path().join(path));
        let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(40));
        write("own/src/x", "");
        assert_eq!(commit("own/src"), None);
        write("own/.git/HEAD", "ref: refs/heads/main\n");
        assert_eq!(commit("own/src"), None); // no commit yet
        write(
            "own/.git/packed-refs",
            &format!("# pack-refs with: peeled\n{c} refs/heads/other\n{b} refs/heads/main\n^{a}\n"),
        );
        assert_eq!(commit("own/src"), Some(b.clone()));
        write("own/.git/refs/heads/main", &format!("{a}\n"));
        assert_eq!(commit("own/src"), Some(a.clone()));
        // A worktree.
        write("tree/.git", "gitdir: ../own/.git/worktrees/tree\n");
        write("own/.git/worktrees/tree/HEAD", "ref: refs/heads/main\n");
        write("own/.git/worktrees/tree/commondir", "../..\n");
        assert_eq!(commit("tree"), Some(a));
        write("own/.git/HEAD", &format!("{c}\n")); // detached
        assert_eq!(commit("own"), Some(c));
    }
}
