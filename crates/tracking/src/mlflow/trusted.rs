//! Servers that the user trusts with a login, by origin (scheme, host and port).

use std::path::Path;

use ctseg_base::{Error, Result};
use ctseg_http::Url;

/// The address of a server, if `text` is one.
pub fn server_url(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim()).ok()?;
    ["http", "https"].contains(&url.scheme()).then_some(url)
}

/// The addresses among `texts`.
pub(super) fn server_urls(texts: &[String]) -> Vec<Url> {
    texts.iter().filter_map(|text| server_url(text)).collect()
}

/// Refuses to send a login to the server at `uri`, named only by the settings file `found_in`, unless `trusted`
/// includes its origin. The user did not choose that file: it may have come with a dataset.
///
/// # Errors
/// The server is not trusted; the message says how to trust it.
pub(super) fn check_named(uri: &str, found_in: &Path, trusted: &[Url]) -> Result<()> {
    let url = server_url(uri);
    let is_of = |known: &Url| {
        url.as_ref()
            .is_some_and(|url| url.origin() == known.origin())
    };
    if trusted.iter().any(is_of) {
        return Ok(());
    }
    // As serialised by the parser, without control characters.
    let shown = url.map_or_else(|| format!("{uri:?}"), |url| format!("'{url}'"));
    Err(Error::invalid(format!(
        "{} names the server {shown}, but your login is sent only to servers that you choose: set MLFLOW_TRACKING_URI to \
         this address, or list it in trusted_servers in ~/.config/ctseg/config.toml",
        found_in.display()
    )))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::mlflow::settings::{Preferences, Server};
    use ctseg_http::Credentials;

    fn found(variables: &[(&str, &str)], preferences: &Preferences) -> Result<Server> {
        let found = Server::find(preferences, &|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        found.map(Option::unwrap)
    }

    #[test]
    fn servers_are_trusted_by_origin() {
        let trusted =
            server_urls(&["https://a/any", "http://b:5000", "ftp://c", "d"].map(str::to_owned));
        assert_eq!(trusted.len(), 2);
        let check = |uri: &str| check_named(uri, Path::new("ctseg.toml"), &trusted);
        for uri in ["https://a", "https://a:443/mlflow", "http://b:5000/"] {
            assert!(check(uri).is_ok(), "{uri}");
        }
        for uri in [
            "http://a",
            "https://a:444",
            "https://x.a",
            "https://a.x",
            "http://b",
            "d",
        ] {
            let message = check(uri).unwrap_err().to_string();
            assert!(
                message.starts_with("ctseg.toml names the server '") || uri == "d",
                "{message}"
            );
            assert!(message.contains("MLFLOW_TRACKING_URI"), "{message}");
        }
    }

    #[test]
    fn a_settings_file_found_in_the_working_folder_gets_no_login() {
        let preferences = |uri: &str, trusted: &[&str]| Preferences {
            uri: Some(uri.to_owned()),
            found_in: Some(PathBuf::from("ctseg.toml")),
            trusted_servers: trusted.iter().map(|text| (*text).to_owned()).collect(),
            ..Preferences::default()
        };
        let token = ("MLFLOW_TRACKING_TOKEN", "t0ken");
        let certificate = ("MLFLOW_TRACKING_CLIENT_CERT_PATH", "own.pem");
        let found_there = preferences("http://a:5000", &[]);
        for login in [token, certificate] {
            let error = found(&[login], &found_there).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{error:?}");
            let message = error.to_string();
            assert!(message.contains("MLFLOW_TRACKING_URI"), "{message}");
            assert!(!message.contains("t0ken"), "{message}");
        }
        let credentials = |variables: &[(&str, &str)], preferences: &Preferences| {
            found(variables, preferences).unwrap().credentials
        };
        let own = Credentials::Token("t0ken".to_owned());
        assert_eq!(credentials(&[], &found_there), Credentials::Anonymous);
        assert_eq!(
            credentials(&[token], &preferences("http://a:5000", &["http://a:5000"])),
            own
        );
        let named = ("MLFLOW_TRACKING_URI", "http://a:5000");
        assert_eq!(credentials(&[token, named], &found_there), own);
        // A login in the file's address may be used.
        let with_login = preferences("http://ann:x@a:5000", &[]);
        assert!(
            matches!(credentials(&[token], &with_login), Credentials::User { name, .. } if name == "ann")
        );
    }

    #[test]
    fn security_risks_are_reported() {
        let risks = |variables: &[(&str, &str)]| {
            let server = found(variables, &Preferences::default()).unwrap();
            let risks = server.risks().into_iter();
            risks.map(|(what, _)| what).collect::<Vec<_>>()
        };
        let token = ("MLFLOW_TRACKING_TOKEN", "t0ken");
        let plain = ("MLFLOW_TRACKING_URI", "http://tracking:5000");
        let messages = risks(&[plain, token]);
        assert!(
            messages.len() == 1 && messages[0].contains("unencrypted"),
            "{messages:?}"
        );
        assert!(risks(&[plain]).is_empty());
        let here = ("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000");
        assert!(risks(&[here, token]).is_empty());
        let https = ("MLFLOW_TRACKING_URI", "https://tracking");
        assert!(risks(&[https, token]).is_empty());
        let messages = risks(&[https, ("MLFLOW_TRACKING_INSECURE_TLS", "1")]);
        assert!(
            messages.len() == 1 && messages[0].contains("certificate checks"),
            "{messages:?}"
        );
    }
}
