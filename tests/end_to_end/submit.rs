//! `ctseg submit slurm` with fake Slurm commands. scripts/slurm/test.sh submits to a real cluster.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::batches::{batch, sidecars};
use crate::common::{ctseg, phantoms, stderr};
use serde_json::Value;

mod refusals;

const SCONTROL: &str = r#"#!/bin/sh
case "$*" in
"-a show partition -o")
    echo "PartitionName=cpu Default=YES MaxTime=1-00:00:00 State=UP TotalCPUs=16"
    echo "PartitionName=gpu Default=NO MaxTime=UNLIMITED State=UP TotalCPUs=64"
    echo "PartitionName=old Default=NO MaxTime=UNLIMITED State=DOWN TotalCPUs=64" ;;
"show config") echo "MaxArraySize            = 1001" ;;
*) exit 1 ;;
esac
"#;

const SINFO: &str = r#"#!/bin/sh
[ "$*" = "-h -N -a -o %R|%c|%m|%G" ] || exit 1
echo "gpu|64|515000|gpu:a100:4(S:0-1)"
echo "cpu|8|65536|(null)"
echo "cpu|16|32000|(null)"
echo "old|8|65536|(null)"
"#;

/// Keeps the script and options of each job; if the file `refuse` exists, fails with its content.
const SBATCH: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
cat >script
[ ! -e refuse ] || { cat refuse >&2; exit 1; }
[ "$1" != --test-only ] || exit 0
id=$((100 + $(ls job-*.sh 2>/dev/null | wc -l)))
mv script "job-$id.sh"
echo "$*" >"job-$id.options"
env | grep ^SBATCH_ | sort >"job-$id.variables"
echo "$id;lab"
"#;

/// A folder with volumes, a model and fake Slurm commands.
struct Workspace {
    folder: tempfile::TempDir,
}

impl Workspace {
    fn new() -> Self {
        let workspace = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        batch(workspace.path(), 3);
        std::fs::create_dir(workspace.slurm()).unwrap();
        for (name, text) in [("scontrol", SCONTROL), ("sinfo", SINFO), ("sbatch", SBATCH)] {
            let path = workspace.slurm().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        workspace
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn slurm(&self) -> PathBuf {
        self.path().join("slurm")
    }

    fn submit(&self, line: &str) -> Output {
        let arguments: Vec<&str> = line.split(' ').collect();
        let path = std::env::var("PATH").unwrap();
        ctseg(
            self.path(),
            &[&["submit", "slurm"], &arguments[..]].concat(),
        )
        .env("PATH", format!("{}:{path}", self.slurm().display()))
        .output()
        .unwrap()
    }

    /// Script and options of a submitted job.
    fn job(&self, id: u32) -> (String, String) {
        let read = |ending: &str| {
            let path = self.slurm().join(format!("job-{id}.{ending}"));
            std::fs::read_to_string(path).unwrap()
        };
        (read("sh"), read("options"))
    }

    fn jobs(&self) -> usize {
        let entries = std::fs::read_dir(self.slurm()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".options")).count()
    }
}

fn expect_code(output: &Output, code: i32) -> String {
    let log = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{log}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn assert_line(script: &str, line: &str) {
    assert!(
        script.lines().any(|own| own == line),
        "no '{line}' in\n{script}"
    );
}

#[test]
fn requested_resources_are_in_the_submitted_script() {
    let workspace = Workspace::new();
    let output = workspace.submit(
        "predict images -o out --model model --tasks 4 --time 4h --mem 16G --cpus 8 --gpus a100:1 --partition gpu \
         --claim claims --sbatch-arg=--exclude=n7 --json --tta",
    );
    let summary: Value = serde_json::from_str(&expect_code(&output, 0)).unwrap();
    assert_eq!(summary["jobs"][0]["id"], "100");
    assert_eq!(summary["jobs"][0]["tasks"], "1-4");
    let log = summary["jobs"][0]["log"].as_str().unwrap();
    assert!(log.ends_with("/ctseg-predict-100_*.log"), "{log}");
    let (script, options) = workspace.job(100);
    assert_eq!(options.trim(), "--parsable");
    for line in [
        "#SBATCH --array=1-4",
        "#SBATCH --time=04:00:00",
        "#SBATCH --mem=16G",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --partition=gpu",
        "#SBATCH --exclude=n7",
        "#SBATCH --signal=B:USR1@300",
        "export CTSEG_CLAIM='claims'",
        "set -- 'images' '-o' 'out' '--model' 'model' '--tta'",
    ] {
        assert_line(&script, line);
    }
    let folder = Path::new(env!("CARGO_BIN_EXE_ctseg")).parent().unwrap();
    assert_line(
        &script,
        &format!("export PATH='{}':\"$PATH\"", folder.display()),
    );
}

#[test]
fn training_options_are_in_the_submitted_script() {
    let workspace = Workspace::new();
    let data = phantoms(&workspace.path().join("data"), 2, 0);
    let data = data.display();
    expect_code(
        &workspace.submit(&format!(
            "fit --stage 1 --data {data} --model new --runs /shared/../{} --epochs 3",
            workspace.path().join("runs").display()
        )),
        0,
    );
    let (script, _) = workspace.job(100);
    assert_line(
        &script,
        &format!("set -- '--stage' '1' '--data' '{data}' '--model' 'new' '--epochs' '3'"),
    );
    assert!(
        script.contains("\nexport CTSEG_RUNS='/shared/../"),
        "{script}"
    );
    expect_code(
        &workspace.submit(&format!(
            "fit-folds --stage 2 --data {data} --model model --set folds=3"
        )),
        0,
    );
    let (script, _) = workspace.job(101);
    assert_line(&script, "#SBATCH --array=0-2");
    assert_line(&script, "export CTSEG_STAGE='2'");
    assert_line(
        &script,
        &format!("set -- 'model' '--data' '{data}' '--set' 'folds=3'"),
    );
}

#[test]
fn chain_jobs_depend_on_the_previous_ones() {
    let workspace = Workspace::new();
    let data = phantoms(&workspace.path().join("data"), 2, 0);
    let data = data.display();
    let output = workspace.submit(&format!(
        "chain {data} chained images labels --tasks 2 --partition gpu --gpus 1 --stage2 refine --device flex"
    ));
    let printed = expect_code(&output, 0);
    assert!(printed.contains("squeue -j 100,101,102,103"), "{printed}");
    let jobs: Vec<(String, String)> = (100..104).map(|id| workspace.job(id)).collect();
    let waits = jobs.iter().map(|(_, options)| options.trim().to_owned());
    let after = |what: &str| format!("--parsable --dependency={what} --kill-on-invalid-dep=yes");
    assert_eq!(
        waits.collect::<Vec<_>>(),
        [
            "--parsable".to_owned(),
            after("afterok:100"),
            after("afterok:101"),
            after("afterok:101,afterany:102"),
        ]
    );
    assert_line(&jobs[1].0, "#SBATCH --job-name=ctseg-stage2");
    assert_line(
        &jobs[1].0,
        &format!(
            "set -- '--stage' 'refine' '--data' '{data}' '--model' 'chained' '--device' 'flex'"
        ),
    );
    assert_line(&jobs[2].0, "#SBATCH --array=1-2");
    assert_line(&jobs[2].0, "#SBATCH --gres=gpu:1");
    assert_line(&jobs[3].0, "#SBATCH --partition=gpu");
    assert!(!jobs[3].0.contains("--gres"), "{}", jobs[3].0);
    assert_line(
        &jobs[3].0,
        &format!("set -- 'labels' '{data}' '--device' 'flex'"),
    );
    let group = |script: &str| {
        let mut lines = script.lines();
        let found = lines.find(|line| line.starts_with("export CTSEG_MLFLOW_GROUP="));
        found.unwrap_or_default().to_owned()
    };
    assert!(group(&jobs[0].0).contains("'chain chained "));
    assert!(
        jobs.iter()
            .all(|(script, _)| group(script) == group(&jobs[0].0))
    );
    for (script, _) in &jobs {
        assert_line(script, "#SBATCH --requeue");
    }
}

#[test]
fn options_for_sbatch_are_kept() {
    let workspace = Workspace::new();
    let predict = "predict images -o out --model model --tasks 8 --dry-run";
    let options = "--sbatch-arg=--array=3,7%1 --sbatch-arg=--job-name=again";
    let script = expect_code(&workspace.submit(&format!("{predict} {options}")), 0);
    assert_line(&script, "#SBATCH --array=3,7%1");
    assert_line(&script, "#SBATCH --job-name=again");
    assert_line(&script, "export CTSEG_SHARES='8'");
    assert_eq!(script.matches("\n#SBATCH --array=").count(), 1, "{script}");
    let chain = "chain data chained images labels --dry-run --sbatch-arg=--job-name=mine";
    let scripts = expect_code(&workspace.submit(chain), 0);
    assert_eq!(scripts.matches("#SBATCH --job-name=").count(), 4);
    assert_eq!(scripts.matches("#SBATCH --job-name=mine\n").count(), 4);
}

#[test]
fn the_scripts_of_a_chain_are_separated() {
    let workspace = Workspace::new();
    let chain = "chain data chained images labels --dry-run";
    let scripts = expect_code(&workspace.submit(chain), 0);
    let separators: Vec<&str> = scripts
        .lines()
        .filter(|line| line.starts_with("# ==== "))
        .collect();
    assert_eq!(separators.len(), 3, "{scripts}");
    for (index, line) in separators.iter().enumerate() {
        let begin = format!("# ==== script {} of 4, '", index + 2);
        assert!(line.starts_with(&begin), "{line}");
        assert!(line.contains("--dependency=after"), "{line}");
    }
    assert!(scripts.starts_with("#!"), "{scripts}");
}

#[test]
fn sbatch_variables_do_not_override_options() {
    let workspace = Workspace::new();
    let submit = |line: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        let path = std::env::var("PATH").unwrap();
        let mut command = ctseg(
            workspace.path(),
            &[&["submit", "slurm"], &arguments[..]].concat(),
        );
        command.env("PATH", format!("{}:{path}", workspace.slurm().display()));
        command.envs([
            ("SBATCH_TIMELIMIT", "60"),
            ("SBATCH_NO_REQUEUE", "1"),
            ("SBATCH_ARRAY_INX", "1-99"),
            ("SBATCH_PARTITION", "gpu"),
            ("SBATCH_ACCOUNT", "ct"),
        ]);
        expect_code(&command.output().unwrap(), 0);
    };
    let predict = "predict images -o out --model model --gpus 1";
    // 25 hours exceed the limit of the cluster's default partition.
    submit(&format!("{predict} --time 25h"));
    submit(&format!("{predict} --partition gpu"));
    let passed = |id: u32| {
        let path = workspace.slurm().join(format!("job-{id}.variables"));
        std::fs::read_to_string(path).unwrap()
    };
    assert_eq!(passed(100), "SBATCH_ACCOUNT=ct\nSBATCH_PARTITION=gpu\n");
    assert_eq!(passed(101), "SBATCH_ACCOUNT=ct\n");
}

#[test]
fn a_training_uses_all_requested_gpus() {
    let workspace = Workspace::new();
    let data = phantoms(&workspace.path().join("data"), 2, 0);
    let data = data.display();
    let fit = format!("fit --stage 1 --data {data} --model new --dry-run");
    for (asked, gres, exported) in [
        ("--gpus 4", "gpu:4", Some("4")),
        ("--gpus a100:2", "gpu:a100:2", Some("2")),
        ("--gpus 1", "gpu:1", None),
        ("--gpus 4 --alone", "gpu:4", None),
    ] {
        let script = expect_code(&workspace.submit(&format!("{fit} {asked}")), 0);
        assert_line(&script, &format!("#SBATCH --gres={gres}"));
        match exported {
            Some(count) => assert_line(&script, &format!("export CTSEG_GPUS='{count}'")),
            None => assert!(!script.contains("CTSEG_GPUS"), "{script}"),
        }
        let set = "set -- '--stage' '1' '--data'";
        assert!(script.contains(set), "{script}");
        assert!(!script.contains("'--gpus'"), "{script}");
    }
    let folds = "fit-folds --stage 2 --data data --model model --dry-run --gpus 2";
    assert_line(
        &expect_code(&workspace.submit(folds), 0),
        "export CTSEG_GPUS='2'",
    );
    let chain = "chain data chained images labels --dry-run --gpus 2";
    let scripts = expect_code(&workspace.submit(chain), 0);
    let exports = scripts.matches("\nexport CTSEG_GPUS='2'\n").count();
    assert_eq!(exports, 2, "{scripts}");

    let output = workspace.submit(&format!("{fit} --gpus 4 --device flex"));
    expect_code(&output, 2);
    assert!(stderr(&output).contains("the device is flex"));
    let arguments: Vec<&str> = fit.split(' ').collect();
    let output = ctseg(
        workspace.path(),
        &[&["submit", "slurm"], &arguments[..]].concat(),
    )
    .env("CTSEG_GPUS", "4")
    .output()
    .unwrap();
    expect_code(&output, 2);
    assert!(stderr(&output).contains("reserve as many with --gpus"));
}

#[test]
fn a_dry_run_needs_no_slurm_and_its_script_works() {
    let workspace = Workspace::new();
    let output = ctseg(
        workspace.path(),
        &[
            "submit",
            "slurm",
            "predict",
            "images",
            "-o",
            "it's out",
            "--model",
            "model",
            "--tasks",
            "1",
            "--dry-run",
        ],
    )
    .env("PATH", "/nowhere")
    .output()
    .unwrap();
    let script = expect_code(&output, 0);
    let job = Command::new("bash")
        .args(["-c", &script])
        .current_dir(workspace.path())
        .envs([
            ("SLURM_JOB_ID", "7"),
            ("SLURM_ARRAY_JOB_ID", "7"),
            ("SLURM_ARRAY_TASK_ID", "1"),
            ("SLURM_ARRAY_TASK_COUNT", "1"),
            ("SLURM_ARRAY_TASK_MIN", "1"),
            ("SLURM_ARRAY_TASK_MAX", "1"),
        ])
        .output()
        .unwrap();
    assert!(job.status.success(), "{}", stderr(&job));
    assert_eq!(sidecars(&workspace.path().join("it's out")).len(), 3);
}
