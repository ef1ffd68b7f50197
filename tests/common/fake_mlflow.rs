//! A server that answers as MLflow does, with the requests that it got.

use std::time::Duration;

use ctseg_tracking::mlflow::settings::Server;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::mlflow::server;

pub type Special = dyn Fn(&Request) -> Option<ResponseTemplate> + Send + Sync;

/// Answers as MLflow does, unless something special is wanted.
pub struct Fake {
    mock: MockServer,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    pub fn start(special: Box<Special>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mock = runtime.block_on(async {
            let mock = MockServer::start().await;
            let uri = mock.uri();
            let answer =
                move |request: &Request| special(request).unwrap_or_else(|| usual(&uri, request));
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

    /// How often something was asked for.
    pub fn count(&self, path_end: &str) -> usize {
        let requests = self.requests();
        let asked = requests.iter().filter(|r| r.url.path().ends_with(path_end));
        asked.count()
    }
}

fn usual(uri: &str, request: &Request) -> ResponseTemplate {
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

/// Answers as MLflow does where the files of runs are kept at `uri`.
pub fn with_artifacts_at(uri: String) -> Box<Special> {
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
