//! A real MLflow test server, and its content as read by MLflow's own client.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ctseg_http::login::{Credentials, Login};
use ctseg_http::tls::Trust;
use ctseg_http::{Body, Client, Method, Request, Url};
use ctseg_tracking::mlflow::settings::Server;
use serde_json::Value;

/// The administrator's password on a server with logins.
pub const PASSWORD: &str = "a-l0ng&secret/password";

/// Ends when dropped, and when this process is killed.
pub struct TestServer {
    python: String,
    folder: tempfile::TempDir,
    port: u16,
    app: Option<&'static str>,
    child: Option<Child>,
}

impl TestServer {
    /// `None` if `CTSEG_TEST_MLFLOW` is not set to a Python with MLflow.
    pub fn start(app: Option<&'static str>) -> Option<Self> {
        let Ok(python) = std::env::var("CTSEG_TEST_MLFLOW") else {
            println!("skipped: CTSEG_TEST_MLFLOW is not set to a Python with MLflow");
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

    /// Starts it again at the same address with the same content.
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
        let ready = self.folder.path().join("ready");
        let started = Instant::now();
        while !ready.exists() {
            assert!(
                started.elapsed() < Duration::from_secs(180),
                "no MLflow server: {}",
                std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        let _ = std::fs::remove_file(self.folder.path().join("ready"));
    }

    /// A server with logins uses TLS.
    pub fn uri(&self) -> String {
        let scheme = if self.app.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The CA certificate of the server.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Sends a request to its REST API.
    pub fn post(&self, path: &str, body: &Value) {
        let home = Url::parse(&self.uri()).unwrap();
        let url = home.join(&format!("api/2.0/mlflow/{path}")).unwrap();
        let login = Login::new(home, Credentials::Anonymous);
        let timeout = Duration::from_secs(30);
        let client = Client::open(login, &Trust::default(), timeout, "").unwrap();
        let request = Request::new(Method::POST, url, Body::Json(body.to_string()));
        assert!(client.send(request).is_ok(), "{path} {body}");
    }

    /// The content as MLflow's own client reads it; see the script.
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
                .env("MLFLOW_TRACKING_PASSWORD", PASSWORD)
                .env("MLFLOW_TRACKING_SERVER_CERT_PATH", self.authority());
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

/// Settings for the server at `uri`.
pub fn server(uri: &str) -> Server {
    Server {
        uri: uri.to_owned(),
        experiment: "ctseg".to_owned(),
        credentials: Credentials::Anonymous,
        trust: Trust::default(),
        timeout: Duration::from_secs(30),
        trusted: Vec::new(),
        artifact_root: None,
    }
}
