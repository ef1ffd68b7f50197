//! Faults of the disk: the shim of scripts/reliability, which lets a chosen write, rename or sync of a process fail.

#![allow(dead_code)] // each test file uses its own part

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What is to go wrong: `write`, `rename` or `sync`; `N`, or `N+` from then on; what happens, see the shim's README.
pub type Fault<'a> = (&'a str, &'a str, &'a str);

/// The compiled shim, in a folder of its own.
pub struct Shim(tempfile::TempDir);

impl Shim {
    /// None, with a line, where there is no C compiler or the system lets no program watch its own calls.
    pub fn built() -> Option<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/reliability/fault_shim.c");
        let shim = Self(tempfile::tempdir().unwrap());
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
        match command.arg(shim.library()).arg(source).output() {
            Ok(output) => assert!(output.status.success(), "{}", super::stderr(&output)),
            Err(error) => {
                println!("left out: no C compiler (CC): {error}");
                return None;
            }
        }
        let mut nothing = Command::new("true");
        let (output, _) = shim.on(&mut nothing, shim.0.path(), None);
        match output.status.code() {
            Some(0) => Some(shim),
            Some(97) => {
                println!("left out: {}", super::stderr(&output));
                None
            }
            _ => panic!("{}: {}", output.status, super::stderr(&output)),
        }
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("shim.so")
    }

    /// Runs `command` to its end with the fault, if any, in files below `folder`; what it came to and what was recorded.
    pub fn on(
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

/// The lines of a record, each in its fields.
#[derive(Debug)]
pub struct Record(Vec<Vec<String>>);

impl Record {
    fn of<'a>(&'a self, what: &'a str) -> impl Iterator<Item = &'a Vec<String>> {
        self.0.iter().filter(move |line| line[0] == what)
    }

    /// How many calls of a kind there were.
    pub fn count(&self, op: &str) -> usize {
        self.of(op).count()
    }

    /// The number of the last call of a kind on a path that ends so.
    pub fn number(&self, op: &str, ending: &str) -> String {
        let found = self.of(op).filter(|line| line[2].ends_with(ending)).last();
        found.unwrap_or_else(|| panic!("no {op} of {ending}: {self:?}"))[1].clone()
    }

    /// Files that were renamed before they were synced, and folders out of which something was removed before a new name
    /// in them was.
    pub fn unsynced(&self) -> Vec<String> {
        self.of("unsynced")
            .map(|line| line[1..].join(" "))
            .collect()
    }
}
