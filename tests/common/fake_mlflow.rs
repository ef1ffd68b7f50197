//! A fake MLflow server that records its requests.

use std::time::Duration;

use ctseg_tracking::mlflow::settings::Server;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::mlflow::server;

pub type Override = dyn Fn(&Request) -> Option<ResponseTemplate> + Send + Sync;

/// Answers like MLflow, unless the override returns an answer.
pub struct Fake {
    mock: MockServer,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    pub fn start(overrides: Box<Override>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mock = runtime.block_on(async {
            let mock = MockServer::start().await;
            let uri = mock.uri();
            let answer = move |request: &Request| {
                overrides(request).unwrap_or_else(|| default_answer(&uri, request))
            };
            Mock::given(any()).respond_with(answer).mount(&mock).await;
            mock
        });
        Self {
            mock,
            _runtime: runtime,
        }
    }

    pub fn server(&self) -> Server {
        Server {
            timeout: Duration::from_secs(5),
            ..server(&self.mock.uri())
        }
    }

    pub fn uri(&self) -> String {
        self.mock.uri()
    }

    pub fn requests(&self) -> Vec<Request> {
        let requests = self.mock.received_requests();
        self._runtime.block_on(requests).unwrap()
    }

    /// The number of requests whose path ends with `path_end`.
    pub fn count(&self, path_end: &str) -> usize {
        let requests = self.requests();
        let asked = requests.iter().filter(|r| r.url.path().ends_with(path_end));
        asked.count()
    }
}

fn default_answer(uri: &str, request: &Request) -> ResponseTemplate {
    let path = request.url.path();
    let answer = match path.rsplit('/').next().unwrap_or_default() {
        "get-by-name" => json!({"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}}),
        "create" if path.ends_with("runs/create") => json!({"run": a_run()}),
        "get" => json!({"run": a_run()}),
        "artifacts" if path.contains("mpu/create") => json!({
            "upload_id": "u1",
            "credentials": [
                {"url": format!("{uri}/bucket/1?signature=s3cret"), "part_number": 1, "headers": {"x-store": "yes"}},
                {"url": format!("{uri}/bucket/2"), "part_number": 2, "headers": {}},
            ],
        }),
        "1" | "2" if path.starts_with("/bucket/") => {
            return ResponseTemplate::new(200).insert_header("ETag", format!("tag of {path}"));
        }
        _ => json!({}),
    };
    ResponseTemplate::new(200).set_body_json(answer)
}

/// Runs keep their artifacts at `uri`.
pub fn with_artifacts_at(uri: String) -> Box<Override> {
    Box::new(move |request| {
        let mut run = a_run();
        run["info"]["artifact_uri"] = json!(uri);
        (is(request, "runs/create") || is(request, "runs/get"))
            .then(|| ResponseTemplate::new(200).set_body_json(json!({"run": run})))
    })
}

pub fn a_run() -> Value {
    json!({"info": {
        "run_id": "r1", "artifact_uri": "mlflow-artifacts:/1/r1/artifacts", "lifecycle_stage": "active",
    }})
}

pub fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_default()
}

pub fn is(request: &Request, path_end: &str) -> bool {
    request.url.path().ends_with(path_end)
}
