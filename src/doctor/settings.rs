//! Unknown environment variables.

use super::Finding;
use ctseg_base::limits::host::Host;
use ctseg_base::text::suggest::nearest;

const CHECK: &str = "variables";

/// Prefix of ctseg's variables.
const OURS: &str = "CTSEG_";

/// Variables read by ctseg's scripts.
const SCRIPTS: [&str; 16] = [
    "CTSEG_ARRAY",
    "CTSEG_CACHE",
    "CTSEG_CLAIM",
    "CTSEG_FIT_SBATCH",
    "CTSEG_IMAGES",
    "CTSEG_MOST_RESTARTS",
    "CTSEG_NCCL",
    "CTSEG_RENDEZVOUS",
    "CTSEG_SBATCH",
    "CTSEG_SHARES",
    "CTSEG_SKIP_LIBTORCH",
    "CTSEG_SKIP_MPI",
    "CTSEG_STAGE",
    "CTSEG_STAGE1",
    "CTSEG_STAGE2",
    "CTSEG_TEST_",
];

/// `known` are the variables of the commands.
pub fn variables(host: &Host, known: &[String]) -> Vec<Finding> {
    let names = host.variable_names().into_iter();
    let ours: Vec<String> = names.filter(|name| name.starts_with(OURS)).collect();
    let is_script = |name: &str| {
        let mut scripts = SCRIPTS.iter();
        scripts.any(|own| name == *own || (own.ends_with('_') && name.starts_with(own)))
    };
    let in_pod = host.variable("KUBERNETES_SERVICE_HOST").is_some();
    let is_known =
        |name: &String| known.contains(name) || is_script(name) || (in_pod && is_of_service(name));
    let unknown: Vec<&String> = ours.iter().filter(|name| !is_known(name)).collect();
    let mut findings = Vec::new();
    let in_use: Vec<&str> = ours
        .iter()
        .filter(|name| known.contains(name))
        .map(String::as_str)
        .collect();
    if !in_use.is_empty() {
        findings.push(Finding::ok(CHECK, in_use.join(", ")));
    }
    findings.extend(unknown.into_iter().map(|name| {
        let meant = nearest(name, known.iter().map(String::as_str), 1);
        let meant = meant
            .first()
            .map_or_else(String::new, |near| format!("; did you mean {near}?"));
        Finding::warning(
            CHECK,
            format!("{name} is set, but no command reads it"),
            format!("unset it{meant}"),
        )
    }));
    findings
}

/// Whether Kubernetes sets the variable for a service: `CTSEG_MLFLOW_SERVICE_HOST`,
/// `CTSEG_MLFLOW_PORT_5000_TCP_ADDR`.
fn is_of_service(name: &str) -> bool {
    ["_SERVICE_HOST", "_SERVICE_PORT"]
        .iter()
        .any(|part| name.contains(part))
        || name.ends_with("_PORT")
        || ["_TCP", "_UDP", "_SCTP"]
            .iter()
            .any(|part| name.contains(part))
            && name.contains("_PORT_")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::doctor::State;

    #[test]
    fn unknown_variables_are_warnings_with_a_suggestion() {
        let known = ["CTSEG_DEVICE", "CTSEG_MODEL", "CTSEG_THREADS"].map(str::to_owned);
        let of = |set: &[(&str, &str)]| {
            let host = Host::with_root(Path::new("/nowhere")).with_variables(set);
            variables(&host, &known)
        };
        let found = of(&[
            ("CTSEG_DEVCIE", "flex"),
            ("CTSEG_MODEL", "m"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(found[0], Finding::ok(CHECK, "CTSEG_MODEL"));
        assert_eq!(found[1].state, State::Warning);
        assert!(found[1].advice.as_ref().unwrap().contains("CTSEG_DEVICE"));
        assert_eq!(found.len(), 2);
        assert!(of(&[("CTSEG_CLAIM", "x"), ("CTSEG_TEST_DATA", "y")]).is_empty());
        assert!(of(&[("CTSEG_STAGE1", "1"), ("CTSEG_FIT_SBATCH", "y")]).is_empty());
        let service = [
            ("CTSEG_MLFLOW_SERVICE_HOST", "10.0.0.7"),
            ("CTSEG_MLFLOW_SERVICE_PORT_HTTP", "5000"),
            ("CTSEG_MLFLOW_PORT", "tcp://10.0.0.7:5000"),
            ("CTSEG_MLFLOW_PORT_5000_TCP_ADDR", "10.0.0.7"),
        ];
        assert_eq!(of(&service).len(), 4);
        let pod = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        assert!(of(&[&service[..], &[pod]].concat()).is_empty());
    }
}
