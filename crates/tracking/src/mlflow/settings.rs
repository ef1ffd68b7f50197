//! Address and credentials of the server, from MLflow's environment variables, `~/.mlflow/credentials` and
//! `ctseg.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::trusted::{check_named, server_url, server_urls};
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_http::{Credentials, Login, Trust, Url};

const EXPERIMENT: &str = "ctseg";

/// Default timeout of a request; uploads get more by their size.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Settings from flags and the settings file. The environment overrides the address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preferences {
    pub uri: Option<String>,
    /// The settings file that names the address, if it was found in the working folder rather than chosen by the
    /// user.
    pub found_in: Option<PathBuf>,
    pub experiment: Option<String>,
    /// Name of the registered model.
    pub model: Option<String>,
    /// Addresses of further origins that may receive the login.
    pub trusted_servers: Vec<String>,
    /// The local folder below which servers may choose artifact folders.
    pub artifact_root: Option<PathBuf>,
}

/// A tracking server with its credentials.
#[derive(Debug, Clone)]
pub struct Server {
    /// Without user and password.
    pub uri: String,
    /// The default experiment for runs.
    pub experiment: String,
    pub credentials: Credentials,
    pub trust: Trust,
    pub timeout: Duration,
    /// Further origins that may receive the login, such as an artifact server's.
    pub trusted: Vec<Url>,
    /// The local folder below which the server may choose artifact folders.
    pub artifact_root: Option<PathBuf>,
}

/// Looks up environment variables.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable of this process's environment; `None` if empty.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Server {
    /// The server configured by `environment` or `preferences`, if any.
    ///
    /// # Errors
    /// [`Error::Usage`] for an address that is not a server's, such as a folder or a database, with the command that
    /// serves it; a login for a server that the user did not choose; a credentials file that cannot be read.
    pub fn find(preferences: &Preferences, environment: Environment) -> Result<Option<Self>> {
        let named = environment("MLFLOW_TRACKING_URI").map(|uri| ("MLFLOW_TRACKING_URI", uri));
        let found_in = match named {
            Some(_) => None,
            None => preferences.found_in.as_deref(),
        };
        let preferred = || preferences.uri.clone().map(|uri| ("[mlflow] uri", uri));
        let Some((origin, uri)) = named.or_else(preferred) else {
            return Ok(None);
        };
        let (uri, login) = without_login(uri.trim());
        if let Some(problem) = address_problem(&uri, login.is_some()) {
            return Err(Error::usage(format!("{origin} is '{uri}'{problem}")));
        }
        let experiment = preferences.experiment.as_deref().unwrap_or(EXPERIMENT);
        let path = |name: &str| environment(name).map(PathBuf::from);
        let seconds = environment("MLFLOW_HTTP_REQUEST_TIMEOUT").and_then(|text| text.parse().ok());
        let identity = path("MLFLOW_TRACKING_CLIENT_CERT_PATH");
        let trusted = server_urls(&preferences.trusted_servers);
        // A login in the address was put there on purpose.
        let own = match login {
            Some(_) => Credentials::Anonymous,
            None => credentials(environment)?,
        };
        if let Some(file) = found_in.filter(|_| own != Credentials::Anonymous || identity.is_some())
        {
            check_named(&uri, file, &trusted)?;
        }
        Ok(Some(Self {
            uri: uri.trim_end_matches('/').to_owned(),
            experiment: experiment.to_owned(),
            credentials: match login {
                Some((name, password)) => Credentials::User { name, password },
                None => own,
            },
            trust: Trust {
                insecure: environment("MLFLOW_TRACKING_INSECURE_TLS").is_some_and(|text| {
                    ["true", "1"].contains(&text.trim().to_ascii_lowercase().as_str())
                }),
                authorities: path("MLFLOW_TRACKING_SERVER_CERT_PATH"),
                identity,
            },
            timeout: seconds.map_or(TIMEOUT, |seconds: u64| {
                Duration::from_secs(seconds.clamp(1, 86_400))
            }),
            trusted,
            artifact_root: preferences.artifact_root.clone(),
        }))
    }

    /// Security risks of the connection, each with advice.
    pub fn risks(&self) -> Vec<(String, &'static str)> {
        let url = server_url(&self.uri);
        let is_exposed =
            |url: &Url| Login::new(url.clone(), self.credentials.clone()).is_exposed_at(url);
        let exposed = url.filter(is_exposed).map(|_| {
            let what = format!("the login is sent to {} unencrypted", self.uri);
            (what, "use an https:// address")
        });
        let unchecked = self.trust.insecure.then(|| {
            let what = "MLFLOW_TRACKING_INSECURE_TLS turns certificate checks off: anyone on the network path can \
                        read what is sent, including the login";
            let advice = "name the server's certificate with MLFLOW_TRACKING_SERVER_CERT_PATH instead";
            (what.to_owned(), advice)
        });
        exposed.into_iter().chain(unchecked).collect()
    }
}

/// Schemes of MLflow's database stores.
const DATABASES: [&str; 4] = ["sqlite", "postgresql", "mysql", "mssql"];

/// The problem with an address that is not a server's, with advice; `has_login`: a login was removed from it.
fn address_problem(uri: &str, has_login: bool) -> Option<String> {
    let (scheme, rest) = uri.split_once(':').unwrap_or(("", uri));
    let after_slashes = rest.strip_prefix("//");
    let expected = "expected a server's address, http://… or https://…";
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => {
            let is_host =
                after_slashes.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
            (!is_host).then(|| format!("; {expected}"))
        }
        // Without a scheme, MLflow takes everything but its service names for a folder.
        "" if ["databricks", "databricks-uc", "uc"].contains(&uri) => Some(format!("; {expected}")),
        "" | "file" => Some(store_problem(
            "MLFLOW_ALLOW_FILE_STORE=true mlflow",
            uri,
            expected,
        )),
        // Such as postgresql+psycopg2.
        kind if DATABASES.contains(&kind.split('+').next().unwrap_or_default()) => {
            let uri = match (has_login, after_slashes) {
                (true, Some(rest)) => format!("{scheme}://USER:PASSWORD@{rest}"),
                _ => uri.to_owned(),
            };
            Some(store_problem("mlflow", &uri, expected))
        }
        _ if rest.starts_with(|c: char| c.is_ascii_digit()) => {
            Some(format!("; {expected}, such as http://{uri}"))
        }
        _ => Some(format!("; {expected}")),
    }
}

fn store_problem(mlflow: &str, uri: &str, expected: &str) -> String {
    let quote = match uri.contains(|c: char| c.is_whitespace() || "\"$&;()<>|*?".contains(c)) {
        true => "\"",
        false => "",
    };
    format!(
        ", a local store; {expected}: serve it with '{mlflow} server --backend-store-uri {quote}{uri}{quote}' and use \
         http://127.0.0.1:5000"
    )
}

/// As in MLflow's client: user and password from the environment or the credentials file; otherwise a token.
fn credentials(environment: Environment) -> Result<Credentials> {
    let file = environment("HOME").map(|home| Path::new(&home).join(".mlflow/credentials"));
    let file = file.filter(|file| file.exists());
    let file = file.map(|file| file_login(&file)).transpose()?;
    let file = file.unwrap_or_default();
    let name = environment("MLFLOW_TRACKING_USERNAME").or(file.name);
    let password = environment("MLFLOW_TRACKING_PASSWORD").or(file.password);
    let token = environment("MLFLOW_TRACKING_TOKEN");
    Ok(match (name, password, token) {
        (Some(name), Some(password), _) => Credentials::User { name, password },
        (_, _, Some(token)) => Credentials::Token(token),
        _ => Credentials::Anonymous,
    })
}

/// User and password from the section `[mlflow]` of an INI file.
#[derive(Default)]
struct FileLogin {
    name: Option<String>,
    password: Option<String>,
}

fn file_login(path: &Path) -> Result<FileLogin> {
    let mut login = FileLogin::default();
    let text = read_text(path).map_err(Error::io(path, "read"))?;
    let mut within = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            within = line == "[mlflow]";
        }
        let Some((key, value)) = line.split_once(['=', ':']).filter(|_| within) else {
            continue;
        };
        let value = Some(value.trim().to_owned());
        match key.trim().to_ascii_lowercase().as_str() {
            "mlflow_tracking_username" => login.name = value,
            "mlflow_tracking_password" => login.password = value,
            _ => {}
        }
    }
    Ok(login)
}

/// Splits `http://user:password@host/path` into the address without login, and the login. The scheme is optional, as
/// for proxies.
pub fn without_login(uri: &str) -> (String, Option<(String, String)>) {
    let (scheme, rest) = match uri.find("://") {
        Some(at) => uri.split_at(at + 3),
        None => ("", uri),
    };
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some(at) = rest[..host_end].rfind('@') else {
        return (uri.to_owned(), None);
    };
    let (name, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
    let bare = format!("{scheme}{}", &rest[at + 1..]);
    let text = |part: &str| String::from_utf8_lossy(&decoded(part)).into_owned();
    (bare, Some((text(name), text(password))))
}

/// Percent-decodes `text`.
pub(super) fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)], preferences: &Preferences) -> Result<Option<Server>> {
        let variables = variables.to_vec();
        Server::find(preferences, &move |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_overrides_the_settings_file() {
        assert!(found(&[], &Preferences::default()).unwrap().is_none());
        let preferences = Preferences {
            uri: Some("http://a:5000/".to_owned()),
            experiment: Some("spleens".to_owned()),
            ..Preferences::default()
        };
        let server = found(&[], &preferences).unwrap().unwrap();
        assert_eq!(
            (server.uri.as_str(), server.experiment.as_str()),
            ("http://a:5000", "spleens")
        );
        let variables = [
            ("MLFLOW_TRACKING_URI", "https://b/mlflow"),
            ("MLFLOW_TRACKING_INSECURE_TLS", "True"),
        ];
        let server = found(&variables, &preferences).unwrap().unwrap();
        assert_eq!(
            (server.uri.as_str(), server.experiment.as_str()),
            ("https://b/mlflow", "spleens")
        );
        assert!(server.trust.insecure);
    }

    #[test]
    fn stores_are_refused_with_the_command_that_serves_them() {
        let refused = |uri: &str| {
            let variable = [("MLFLOW_TRACKING_URI", uri)];
            let error = found(&variable, &Preferences::default()).unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{error:?}");
            error.to_string()
        };
        let files = "MLFLOW_ALLOW_FILE_STORE=true mlflow server --backend-store-uri ";
        let database = "'mlflow server --backend-store-uri ";
        for (uri, command, shown) in [
            ("./mlruns", files, "./mlruns'"),
            ("mlruns", files, "mlruns'"),
            ("/data/ml runs", files, "\"/data/ml runs\"'"),
            ("file:///data/mlruns", files, "file:///data/mlruns'"),
            ("file:mlruns", files, "file:mlruns'"),
            ("sqlite:///x.db", database, "sqlite:///x.db'"),
            (
                "postgresql+psycopg2://ann:s3cret@db/ml",
                database,
                "postgresql+psycopg2://USER:PASSWORD@db/ml'",
            ),
        ] {
            let message = refused(uri);
            assert!(message.contains(&format!("{command}{shown}")), "{message}");
            assert!(message.contains("http://127.0.0.1:5000"), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        for (uri, expected) in [
            ("http://", "expected a server's address"),
            ("http:///path", "expected a server's address"),
            ("databricks", "expected a server's address"),
            ("s3://bucket/mlruns", "expected a server's address"),
            ("tracking:5000", "such as http://tracking:5000"),
        ] {
            let message = refused(uri);
            assert!(
                message.contains(expected) && !message.contains("mlflow server"),
                "{message}"
            );
        }
    }

    #[test]
    fn logins_are_removed_from_addresses() {
        let login = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        for (uri, bare, expected) in [
            (
                "http://ann:s3cret@a:1/x@y",
                "http://a:1/x@y",
                login("ann", "s3cret"),
            ),
            (
                "ann:s3cret@proxy:3128",
                "proxy:3128",
                login("ann", "s3cret"),
            ),
            ("proxy:3128", "proxy:3128", None),
            ("localhost,.svc", "localhost,.svc", None),
            ("http://a/x@y", "http://a/x@y", None),
            ("", "", None),
        ] {
            assert_eq!(without_login(uri), (bare.to_owned(), expected));
        }
    }

    #[test]
    fn credentials_are_found_as_in_mlflow() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        let of = |variables: &[(&str, &str)]| {
            let server = found(variables, &Preferences::default());
            server.unwrap().unwrap().credentials
        };
        let user = |name: &str, password: &str| Credentials::User {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        let uri = ("MLFLOW_TRACKING_URI", "http://a");
        let token = ("MLFLOW_TRACKING_TOKEN", "t0ken");
        assert_eq!(of(&[uri]), Credentials::Anonymous);
        assert_eq!(of(&[uri, token]), Credentials::Token("t0ken".to_owned()));
        let name = ("MLFLOW_TRACKING_USERNAME", "ann");
        assert_eq!(
            of(&[uri, token, name]),
            Credentials::Token("t0ken".to_owned())
        );
        let password = ("MLFLOW_TRACKING_PASSWORD", "s3cret");
        assert_eq!(of(&[uri, token, name, password]), user("ann", "s3cret"));
        std::fs::create_dir(home.path().join(".mlflow")).unwrap();
        let text = "[other]\nmlflow_tracking_username = x\n[mlflow]\nmlflow_tracking_username = bob\nMLFLOW_TRACKING_PASSWORD: a=b:c\n";
        std::fs::write(home.path().join(".mlflow/credentials"), text).unwrap();
        assert_eq!(of(&[uri, ("HOME", path)]), user("bob", "a=b:c"));
        let with_login = ("MLFLOW_TRACKING_URI", "http://me:p%40ss@a:1/x@y");
        let server = found(&[with_login, password], &Preferences::default());
        let server = server.unwrap().unwrap();
        assert_eq!(server.credentials, user("me", "p@ss"));
        assert_eq!(server.uri, "http://a:1/x@y");
        let shown = format!("{server:?}");
        assert!(
            !shown.contains("p@ss") && !shown.contains("p%40ss"),
            "{shown}"
        );
    }
}
