//! An MLflow server to test with, and its own client's word on what it holds.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ctseg::outside::mlflow::settings::{Access, Server, Trust};
use ctseg::pipeline::observer::{Observer, Silent, Task};
use serde_json::Value;

/// The administrator of a server with logins.
pub const PASSWORD: &str = "a-l0ng&secret/password";

/// Ends when it is dropped, and also when this process is killed.
pub struct TestServer {
    python: String,
    folder: tempfile::TempDir,
    port: u16,
    app: Option<&'static str>,
    child: Option<Child>,
}

impl TestServer {
    /// None where `CTSEG_TEST_MLFLOW` names no Python with MLflow.
    pub fn start(app: Option<&'static str>) -> Option<Self> {
        let Ok(python) = std::env::var("CTSEG_TEST_MLFLOW") else {
            println!("left out: CTSEG_TEST_MLFLOW names no Python with MLflow");
            return None;
        };
        let mut server = Self {
            python,
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
            app,
            child: None,
        };
        server.restart();
        Some(server)
    }

    /// At the same address, with everything that it held.
    pub fn restart(&mut self) {
        let mut command = Command::new(&self.python);
        command
            .arg(script("mlflow_server.py"))
            .arg(self.folder.path())
            .arg(self.port.to_string())
            .args(self.app)
            .env("ADMIN_PASSWORD", PASSWORD)
            .stdin(Stdio::piped());
        self.child = Some(command.spawn().unwrap());
        let begun = Instant::now();
        while !self.answers() {
            assert!(
                begun.elapsed() < Duration::from_secs(180),
                "no MLflow server: {}",
                std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn answers(&self) -> bool {
        let mut answer = String::new();
        let asked = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        });
        asked.is_ok() && answer.contains(" 200 ")
    }

    /// What MLflow's own client finds; see the script.
    pub fn content(&self) -> Value {
        let mut command = Command::new(&self.python);
        command
            .arg(script("check_mlflow.py"))
            .env("MLFLOW_TRACKING_URI", self.uri())
            .env("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            .env("MLFLOW_DISABLE_TELEMETRY", "true");
        if self.app.is_some() {
            command
                .env("MLFLOW_TRACKING_USERNAME", "admin")
                .env("MLFLOW_TRACKING_PASSWORD", PASSWORD);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name)
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// The server at `uri` as the library names servers.
pub fn server(uri: &str) -> Server {
    Server {
        uri: uri.to_owned(),
        experiment: "ctseg".to_owned(),
        access: Access::Anybody,
        trust: Trust::default(),
        timeout: Duration::from_secs(30),
    }
}

/// Keeps what is said and warned.
#[derive(Default)]
pub struct Heard {
    pub said: Mutex<Vec<String>>,
    pub warned: Mutex<Vec<String>>,
}

impl Heard {
    pub fn new() -> (Arc<Self>, Arc<dyn Observer>) {
        let heard = Arc::new(Self::default());
        (Arc::clone(&heard), heard)
    }

    pub fn warnings(&self) -> Vec<String> {
        self.warned.lock().unwrap().clone()
    }

    pub fn sayings(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

impl Observer for Heard {
    fn say(&self, line: &str) {
        self.said.lock().unwrap().push(line.to_owned());
    }

    fn warn(&self, line: &str) {
        self.warned.lock().unwrap().push(line.to_owned());
    }

    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(Silent)
    }
}

/// Waits until `what` is so.
pub fn wait_for(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
