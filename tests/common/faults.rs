//! Disk faults: the shim of scripts/reliability makes a chosen write, rename or sync of a process fail.

#![allow(dead_code)] // each test file uses its own part

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The call (`write`, `rename` or `sync`), its number (`N`, or `N+` for all from then on) and the action (see the
/// shim's README).
pub type Fault<'a> = (&'a str, &'a str, &'a str);

/// The compiled shim, in its own folder.
pub struct Shim(tempfile::TempDir);

impl Shim {
    /// `None`, with a printed line, without a C compiler or if the system does not support the shim.
    pub fn build() -> Option<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/reliability/fault_shim.c");
        let shim = Self(tempfile::tempdir().unwrap());
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
        match command.arg(shim.library()).arg(source).output() {
            Ok(output) => assert!(output.status.success(), "{}", super::stderr(&output)),
            Err(error) => {
                println!("skipped: no C compiler (CC): {error}");
                return None;
            }
        }
        let mut nothing = Command::new("true");
        let (output, _) = shim.run(&mut nothing, shim.0.path(), None);
        match output.status.code() {
            Some(0) => Some(shim),
            Some(97) => {
                println!("skipped: {}", super::stderr(&output));
                None
            }
            _ => panic!("{}: {}", output.status, super::stderr(&output)),
        }
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("shim.so")
    }

    /// Runs `command` with the fault, if any, in files below `folder`; returns its output and the record.
    pub fn run(
        &self,
        command: &mut Command,
        folder: &Path,
        fault: Option<Fault>,
    ) -> (Output, Record) {
        let record = self.0.path().join("record");
        let _ = std::fs::remove_file(&record);
        command
            .env("LD_PRELOAD", self.library())
            .env("FAULT_BELOW", folder)
            .env("FAULT_RECORD", &record);
        if let Some((op, at, action)) = fault {
            command
                .env("FAULT_OP", op)
                .env("FAULT_AT", at)
                .env("FAULT_ACTION", action);
        }
        let output = command.output().unwrap();
        let text = std::fs::read_to_string(&record).unwrap_or_default();
        let fields = |line: &str| line.split('\t').map(str::to_owned).collect();
        (output, Record(text.lines().map(fields).collect()))
    }
}

/// The lines of a record, split into fields.
#[derive(Debug)]
pub struct Record(Vec<Vec<String>>);

impl Record {
    fn of<'a>(&'a self, what: &'a str) -> impl Iterator<Item = &'a Vec<String>> {
        self.0.iter().filter(move |line| line[0] == what)
    }

    /// The number of calls of a kind.
    pub fn count(&self, op: &str) -> usize {
        self.of(op).count()
    }

    /// The number of the last call of a kind on a path that ends with `ending`.
    pub fn number(&self, op: &str, ending: &str) -> String {
        let found = self.of(op).filter(|line| line[2].ends_with(ending)).last();
        found.unwrap_or_else(|| panic!("no {op} of {ending}: {self:?}"))[1].clone()
    }

    /// Files renamed before they were synced, and folders where something was removed before a new name was synced.
    pub fn unsynced(&self) -> Vec<String> {
        self.of("unsynced")
            .map(|line| line[1..].join(" "))
            .collect()
    }
}
