//! The MLflow server: reachable, of which version, and what waits for it.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::patience::within;
use super::{Finding, clock};
use ctseg_base::Error;
use ctseg_base::limits::host::Host;
use ctseg_tracking::mlflow::error::Fault;
use ctseg_tracking::mlflow::probe::{Answer, probed, waiting};
use ctseg_tracking::mlflow::settings::{Server, without_login};

const CHECK: &str = "MLflow";
const LOGIN: &str = "MLflow, login";
const WAITING: &str = "MLflow, to send";

const MEANWHILE: &str = "runs go on without it, and 'ctseg sync' sends later what they told";

/// For each of two questions.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listing thousands of runs on slow storage.
const RUNS_PATIENCE: Duration = Duration::from_secs(60);

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

/// `named` is the server that the settings name, `runs` the folder of runs.
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
                "no server is named; runs keep in their folders what 'ctseg sync' sends",
            )];
        }
        Err(error) => {
            let advice = match &error {
                Error::Usage(_) => {
                    "MLFLOW_TRACKING_URI, or uri below [mlflow] in ctseg.toml, such as http://tracking:5000"
                }
                _ => MEANWHILE,
            };
            return vec![Finding::fault(CHECK, error.to_string(), advice)];
        }
    };
    let mut findings = match probed(&Server {
        timeout: PATIENCE.min(server.timeout),
        ..server.clone()
    }) {
        Ok(answer) => answered(&server, &answer),
        Err(fault) => vec![failed(host, &server, &fault)],
    };
    let risks = server.risks().into_iter();
    findings.extend(risks.map(|(what, advice)| Finding::warning(LOGIN, what, advice)));
    findings.extend(to_send(&server, runs));
    findings
}

fn answered(server: &Server, answer: &Answer) -> Vec<Finding> {
    let version = answer
        .version
        .as_deref()
        .unwrap_or("of a version that it does not tell");
    let name = &server.experiment;
    let found = format!(
        "{}: {version}, answers in {:.2} s; experiment '{name}' ",
        server.uri,
        answer.took.as_secs_f64()
    );
    let facts = json!({
        "uri": server.uri, "version": answer.version, "experiment": name,
        "experiment_id": answer.experiment.as_ref().map(|known| &known.id), "seconds": answer.took.as_secs_f64(),
    });
    let finding = match &answer.experiment {
        Some(known) if known.is_deleted => Finding::note(
            CHECK,
            format!(
                "{found}(number {}) was deleted there; the first run restores it, if it may",
                known.id
            ),
        ),
        Some(known) => Finding::ok(CHECK, format!("{found}has number {}", known.id)),
        None => Finding::note(
            CHECK,
            format!("{found}is not there yet, the first run makes it"),
        ),
    };
    let clock = answer
        .skew
        .map(|(difference, ahead)| clock::judged(difference, ahead));
    [finding.with(facts)].into_iter().chain(clock).collect()
}

fn failed(host: &Host, server: &Server, fault: &Fault) -> Finding {
    let why = fault.to_string();
    let proxies = proxies(host);
    let through = match proxies.is_empty() {
        true => String::new(),
        false => format!(" ({})", proxies.join(", ")),
    };
    let advice = advice(fault, &why, &server.uri, !proxies.is_empty());
    let facts = json!({"uri": server.uri, "problem": why, "proxies": proxies});
    Finding::fault(CHECK, format!("{why}{through}"), advice).with(facts)
}

/// The variables that send requests elsewhere, without logins.
fn proxies(host: &Host) -> Vec<String> {
    let known = PROXIES.iter().filter_map(|name| {
        let value = host.variable(name)?;
        Some(format!("{name}={}", without_login(&value).0))
    });
    known.collect()
}

/// What to do, by what is known of the failure.
fn advice(fault: &Fault, why: &str, uri: &str, has_proxy: bool) -> String {
    let says = |text: &str| why.contains(text);
    let step = match fault {
        Fault::Local(_) => return "see that this file is there and can be read".to_owned(),
        Fault::Closed(_) if says("certificate") => {
            "its certificate is not trusted: see the host's name and the clock, or name the authority's certificate"
        }
        Fault::Closed(_) if says("answers 401") || says("answers 403") => {
            "see user, password or token; MLflow's --allowed-hosts must name this address"
        }
        Fault::Closed(_) => "see that the address is the tracking server's own, with its path",
        Fault::Gone(_) | Fault::Refused(_) | Fault::Experiment(_) | Fault::Place(_) => {
            "see that the address is the tracking server's own, with its path"
        }
        Fault::Away { .. } if says("lookup") || says("resolve") || says("dns") => {
            "the host's name is not known here: see its spelling, /etc/resolv.conf, in Kubernetes <service>.<namespace>.svc"
        }
        Fault::Away { .. } if says("refused") => {
            "nothing listens there: see the port, and that the server runs ('mlflow server --host 0.0.0.0 --port 5000')"
        }
        Fault::Away { .. } if says("unreachable") || says("No route") => {
            "there is no way from this machine: compute nodes often have none to the outside"
        }
        Fault::Away { .. } if says("no answer in time") => {
            "something swallows the requests, such as a firewall or a server that hangs: try curl -v on its /version"
        }
        Fault::Away { .. } if says(" answers 5") => "the server itself fails: see its log",
        Fault::Away { .. } => "try curl -v on its /version",
    };
    let proxy = match has_proxy {
        true => format!(
            "; should it be reached without a proxy, name it in NO_PROXY: {}",
            host_of(uri)
        ),
        false => String::new(),
    };
    format!("{step}{proxy}; {MEANWHILE}")
}

/// `tracking` of `http://tracking:5000/path`.
fn host_of(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let end = rest.find('/').unwrap_or(rest.len());
    let host = &rest[..end];
    match host.rfind(':').filter(|_| !host.ends_with(']')) {
        Some(at) => &host[..at],
        None => host,
    }
}

fn to_send(server: &Server, runs: &Path) -> Option<Finding> {
    let (own, to) = (runs.to_path_buf(), server.clone());
    let looked = within(RUNS_PATIENCE, move || {
        own.is_dir().then(|| waiting(&own, &to))
    });
    let waiting = match looked {
        Some(None) => return None,
        Some(Some(Ok(waiting))) => waiting,
        Some(Some(Err(error))) => {
            let advice = "see that this user may read the folder";
            return Some(Finding::warning(WAITING, error.to_string(), advice));
        }
        None => {
            let (runs, patience) = (runs.display(), RUNS_PATIENCE.as_secs());
            let found = format!("{runs}: no answer within {patience} s");
            let advice = "its storage is slow or hangs: see 'mount' for its server";
            return Some(Finding::warning(WAITING, found, advice));
        }
    };
    let count = waiting.len();
    let first = waiting.first()?;
    let found = match count {
        1 => format!("{} has more to tell", first.display()),
        _ => format!(
            "{count} runs have more to tell, such as {}",
            first.display()
        ),
    };
    let advice = format!(
        "'ctseg sync {}' sends it; runs that go on send it by themselves",
        runs.display()
    );
    let shown: Vec<String> = waiting
        .iter()
        .map(|run| run.display().to_string())
        .collect();
    Some(
        Finding::note(WAITING, found)
            .advised(advice)
            .with(json!({"runs": shown})),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_out_of_addresses() {
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
        let host = Host::below(Path::new("/nowhere")).with_variables(&[
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
