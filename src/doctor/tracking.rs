//! The MLflow server: reachable, its version, and runs pending upload.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::timeout::within;
use super::{Finding, clock};
use ctseg_base::Error;
use ctseg_base::limits::host::Host;
use ctseg_tracking::mlflow::error::{Cause, ConnectionProblem, Fault};
use ctseg_tracking::mlflow::probe::{ServerInfo, pending_runs, probe};
use ctseg_tracking::mlflow::settings::{Server, without_login};

const CHECK: &str = "MLflow";
const LOGIN: &str = "MLflow, login";
const PENDING: &str = "MLflow, to send";

const MEANWHILE: &str = "runs continue without it; upload them later with 'ctseg sync'";

/// For each of two requests.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Listing thousands of runs on slow storage.
const RUNS_TIMEOUT: Duration = Duration::from_secs(60);

const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// `named` is the configured server, `runs` the folder of runs.
pub fn findings(
    host: &Host,
    named: ctseg_base::Result<Option<Server>>,
    runs: &Path,
) -> Vec<Finding> {
    let server = match named {
        Ok(Some(server)) => server,
        Ok(None) => {
            return vec![Finding::ok(
                CHECK,
                "no server configured; 'ctseg sync' can upload runs later",
            )];
        }
        Err(error) => {
            let advice = match &error {
                Error::Usage(_) => {
                    "set MLFLOW_TRACKING_URI, or uri under [mlflow] in ctseg.toml, such as http://tracking:5000"
                }
                _ => MEANWHILE,
            };
            return vec![Finding::fault(CHECK, error.to_string(), advice)];
        }
    };
    let mut findings = match probe(&Server {
        timeout: TIMEOUT.min(server.timeout),
        ..server.clone()
    }) {
        Ok(answer) => answered(&server, &answer),
        Err(fault) => vec![failed(host, &server, &fault)],
    };
    let risks = server.risks().into_iter();
    findings.extend(risks.map(|(what, advice)| Finding::warning(LOGIN, what, advice)));
    findings.extend(pending(&server, runs));
    findings
}

fn answered(server: &Server, answer: &ServerInfo) -> Vec<Finding> {
    let version = answer.version.as_deref().unwrap_or("unknown version");
    let name = &server.experiment;
    let found = format!(
        "{}: {version}, responds in {:.2} s; experiment '{name}' ",
        server.uri,
        answer.response_time.as_secs_f64()
    );
    let facts = json!({
        "uri": server.uri, "version": answer.version, "experiment": name,
        "experiment_id": answer.experiment.as_ref().map(|known| &known.id), "seconds": answer.response_time.as_secs_f64(),
    });
    let finding = match &answer.experiment {
        Some(known) if known.is_deleted => Finding::note(
            CHECK,
            format!(
                "{found}(ID {}) is deleted; the first run restores it if permitted",
                known.id
            ),
        ),
        Some(known) => Finding::ok(CHECK, format!("{found}has ID {}", known.id)),
        None => Finding::note(
            CHECK,
            format!("{found}does not exist yet; the first run creates it"),
        ),
    };
    let clock = answer.skew.map(clock::finding);
    [finding.with(facts)].into_iter().chain(clock).collect()
}

fn failed(host: &Host, server: &Server, fault: &Fault) -> Finding {
    let why = fault.to_string();
    let proxies = proxies(host);
    let via = match proxies.is_empty() {
        true => String::new(),
        false => format!(" ({})", proxies.join(", ")),
    };
    let advice = advice(fault, &server.uri, !proxies.is_empty());
    let facts = json!({"uri": server.uri, "problem": why, "proxies": proxies});
    Finding::fault(CHECK, format!("{why}{via}"), advice).with(facts)
}

/// Proxy variables, without logins.
fn proxies(host: &Host) -> Vec<String> {
    let known = PROXIES.iter().filter_map(|name| {
        let value = host.variable(name)?;
        Some(format!("{name}={}", without_login(&value).0))
    });
    known.collect()
}

/// What to do about the failure.
fn advice(fault: &Fault, uri: &str, has_proxy: bool) -> String {
    let step = match fault {
        Fault::Local(_) => return "check that this file exists and is readable".to_owned(),
        Fault::Fatal {
            cause: Cause::Connection(ConnectionProblem::Certificate),
            ..
        } => {
            "its certificate is not trusted: check the host name and the clock, or configure the CA certificate"
        }
        Fault::Fatal {
            cause: Cause::Status(401 | 403),
            ..
        } => "check user, password or token; MLflow's --allowed-hosts must include this address",
        Fault::Fatal { .. }
        | Fault::RunDeleted(_)
        | Fault::Refused(_)
        | Fault::ExperimentDeleted(_)
        | Fault::LocationDenied(_) => {
            "check that the address is that of the tracking server, including its path"
        }
        Fault::Unavailable { cause, .. } => advice_for_outage(*cause),
    };
    let proxy = match has_proxy {
        true => format!(
            "; to bypass the proxy, add it to NO_PROXY: {}",
            host_of(uri)
        ),
        false => String::new(),
    };
    format!("{step}{proxy}; {MEANWHILE}")
}

fn advice_for_outage(cause: Cause) -> &'static str {
    match cause {
        Cause::Connection(ConnectionProblem::UnknownHost) => {
            "the host name cannot be resolved: check its spelling and /etc/resolv.conf; in Kubernetes use <service>.<namespace>.svc"
        }
        Cause::Connection(ConnectionProblem::Refused) => {
            "connection refused: check the port, and that the server runs ('mlflow server --host 0.0.0.0 --port 5000')"
        }
        Cause::Connection(ConnectionProblem::Unreachable) => {
            "unreachable from this machine: compute nodes often have no external network"
        }
        Cause::Connection(ConnectionProblem::TimedOut) => {
            "requests are dropped, by a firewall or a hanging server: try curl -v on its /version"
        }
        Cause::Status(500..) => "server error: see its log",
        _ => "try curl -v on its /version",
    }
}

/// `tracking` from `http://tracking:5000/path`.
fn host_of(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let end = rest.find('/').unwrap_or(rest.len());
    let host = &rest[..end];
    match host.rfind(':').filter(|_| !host.ends_with(']')) {
        Some(at) => &host[..at],
        None => host,
    }
}

fn pending(server: &Server, runs: &Path) -> Option<Finding> {
    let (own, to) = (runs.to_path_buf(), server.clone());
    let listed = within(RUNS_TIMEOUT, move || {
        own.is_dir().then(|| pending_runs(&own, &to))
    });
    let pending = match listed {
        Some(None) => return None,
        Some(Some(Ok(pending))) => pending,
        Some(Some(Err(error))) => {
            let advice = "check that this user can read the folder";
            return Some(Finding::warning(PENDING, error.to_string(), advice));
        }
        None => {
            let (runs, timeout) = (runs.display(), RUNS_TIMEOUT.as_secs());
            let found = format!("{runs}: no response within {timeout} s");
            let advice = "its storage is slow or hangs: find its server with 'mount'";
            return Some(Finding::warning(PENDING, found, advice));
        }
    };
    let count = pending.len();
    let first = pending.first()?;
    let found = match count {
        1 => format!("{} has data to upload", first.display()),
        _ => format!(
            "{count} runs have data to upload, such as {}",
            first.display()
        ),
    };
    let advice = format!(
        "'ctseg sync {}' uploads it; running runs upload it themselves",
        runs.display()
    );
    let shown: Vec<String> = pending
        .iter()
        .map(|run| run.display().to_string())
        .collect();
    Some(
        Finding::note(PENDING, found)
            .advised(advice)
            .with(json!({"runs": shown})),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_extracted_from_addresses() {
        for (uri, host) in [
            ("http://tracking:5000/path", "tracking"),
            ("https://tracking.example.org", "tracking.example.org"),
            ("http://[::1]:5000", "[::1]"),
            ("http://[::1]", "[::1]"),
        ] {
            assert_eq!(host_of(uri), host);
        }
    }

    #[test]
    fn proxies_are_shown_without_logins() {
        let host = Host::with_root(Path::new("/nowhere")).with_variables(&[
            ("HTTPS_PROXY", "http://ann:s3cret@proxy:3128"),
            ("no_proxy", "localhost,.svc"),
            ("HTTP_PROXY", ""),
            ("ALL_PROXY", "ann:s3cret@proxy:3128"),
        ]);
        let expected = [
            "HTTPS_PROXY=http://proxy:3128",
            "ALL_PROXY=proxy:3128",
            "no_proxy=localhost,.svc",
        ];
        assert_eq!(proxies(&host), expected);
    }
}
