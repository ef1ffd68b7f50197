//! Artifact uploads: through the server's artifact proxy, as multipart uploads for large files where it supports them,
//! or into a local folder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::artifact_folder::Folder;
use super::error::{Fault, Refusal};
use super::http::{Http, UploadTarget};
use super::settings::decoded;
use ctseg_base::atomic_file::{
    TEMP_PREFIX, parent_of, persist, temporary_file, write_bytes_atomically,
};
use ctseg_base::{Error, Result, regular_file};
use ctseg_http::Body;

const PROXY: &str = "/api/2.0/mlflow-artifacts";

/// Settings of multipart uploads.
#[derive(Debug, Clone, Copy)]
pub struct Multipart {
    /// Smaller files are uploaded whole.
    pub min_file_bytes: u64,
    pub part_bytes: u64,
}

impl Default for Multipart {
    fn default() -> Self {
        Self {
            min_file_bytes: 100 << 20,
            part_bytes: 64 << 20,
        }
    }
}

/// The largest number of parts that object stores accept.
const MAX_PARTS: u64 = 1000;

/// The artifact store of a run or model.
pub struct Store<'a> {
    http: &'a Http,
    parts: Multipart,
    kind: Kind,
}

enum Kind {
    /// The artifact proxy at an address such as `https://host/mlflow`, and the folder there.
    Proxy {
        base: String,
        folder: Vec<String>,
    },
    Folder(Folder),
}

impl<'a> Store<'a> {
    /// Opens the store at the artifact URI `uri`.
    ///
    /// # Errors
    /// A location that cannot be reached, such as a bucket without a proxy; [`Fault::LocationDenied`] for a local
    /// folder that is not below the allowed root.
    pub fn open(http: &'a Http, uri: &str, parts: Multipart) -> Result<Self, Fault> {
        let refused = |why: String| {
            Fault::Refused(Refusal {
                status: 0,
                code: String::new(),
                message: why,
            })
        };
        let segments = |path: &str| -> Vec<String> {
            let parts = path.split('/').filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        };
        // A path has no scheme but may contain a colon.
        let scheme = uri.split_once(':').filter(|(name, _)| !name.contains('/'));
        let (scheme, rest) = scheme.unwrap_or(("file", uri));
        let kind = match scheme {
            "mlflow-artifacts" => {
                let (host, path) = split_host(rest);
                Kind::Proxy {
                    base: http.base_at(host),
                    folder: segments(path),
                }
            }
            "http" | "https" => {
                let Some((base, path)) = uri.split_once(&format!("{PROXY}/artifacts")) else {
                    return Err(refused(format!(
                        "the artifact location '{uri}' is not on an MLflow server"
                    )));
                };
                Kind::Proxy {
                    base: base.to_owned(),
                    folder: segments(path),
                }
            }
            _ => {
                let Some(path) = local_path(uri, scheme) else {
                    return Err(refused(format!(
                        "the server stores artifacts in '{uri}', which cannot be written from here; start it with --serve-artifacts"
                    )));
                };
                Kind::Folder(Folder::open(&path, http.artifact_root.as_deref())?)
            }
        };
        Ok(Self { http, parts, kind })
    }

    /// A warning if uploads would send the login unencrypted.
    pub fn risk(&self) -> Option<String> {
        match &self.kind {
            Kind::Proxy { base, .. } => self.http.risk_at(base),
            Kind::Folder(_) => None,
        }
    }

    /// Uploads the file `path` as `to`, such as `plots/loss.png`, replacing any earlier one.
    pub fn put(&self, path: &Path, to: &str) -> Result<(), Fault> {
        let mut file = regular_file::open(path).map_err(Error::io(path, "read"))?;
        let metadata = file.metadata().map_err(Error::io(path, "read"))?;
        let bytes = metadata.len();
        let (base, folder) = match &self.kind {
            Kind::Folder(folder) => {
                return copy_to(&mut file, &folder.path_of(to)?).map_err(Fault::from);
            }
            Kind::Proxy { base, folder } => (base, folder),
        };
        if bytes >= self.parts.min_file_bytes && self.put_in_parts(path, bytes, folder, base, to)? {
            return Ok(());
        }
        self.put_whole(Body::File { file, bytes }, base, folder, to)
    }

    /// Uploads a text as `to`.
    pub fn put_text(&self, text: String, to: &str) -> Result<(), Fault> {
        match &self.kind {
            Kind::Folder(folder) => {
                let path = folder.path_of(to)?;
                Ok(write_bytes_atomically(&path, text.as_bytes())?)
            }
            Kind::Proxy { base, folder } => self.put_whole(Body::Text(text), base, folder, to),
        }
    }

    fn put_whole(&self, body: Body, base: &str, folder: &[String], to: &str) -> Result<(), Fault> {
        let mut segments: Vec<&str> = vec!["artifacts"];
        segments.extend(folder.iter().map(String::as_str));
        segments.extend(to.split('/'));
        let address = format!("{base}{PROXY}");
        let target = self
            .http
            .upload_target(&address, &segments, Vec::new(), true)?;
        self.http.put(target, body).map(drop)
    }

    /// Uploads the file in parts, to presigned URLs from the server. Returns false if the store does not support
    /// multipart uploads of this many parts.
    fn put_in_parts(
        &self,
        path: &Path,
        bytes: u64,
        folder: &[String],
        base: &str,
        to: &str,
    ) -> Result<bool, Fault> {
        if base != self.http.base_at("") {
            return Ok(false);
        }
        let part_bytes = self.parts.part_bytes.max(bytes.div_ceil(MAX_PARTS));
        let count = bytes.div_ceil(part_bytes);
        let (within, name) = to.rsplit_once('/').unwrap_or(("", to));
        let mut at: Vec<&str> = folder.iter().map(String::as_str).collect();
        at.extend(within.split('/').filter(|part| !part.is_empty()));
        let at = at.join("/");
        let request =
            |what: &str, body: &Value| self.http.post(&format!("{PROXY}/mpu/{what}/{at}"), body);
        let started = match request("create", &json!({"path": name, "num_parts": count})) {
            // Local stores answer 501, old servers 404.
            Err(Fault::Refused(_)) => return Ok(false),
            other => other?,
        };
        let upload = &started["upload_id"];
        // Frees the parts that were uploaded.
        let abort = || request("abort", &json!({"path": name, "upload_id": upload})).map(drop);
        let targets = started["credentials"].as_array().map_or(0, Vec::len);
        // Fewer URLs would truncate the file.
        if targets as u64 != count {
            let _ = abort();
            return Ok(false);
        }
        let sent = self.upload_parts(path, bytes, part_bytes, &started);
        let ended = sent.and_then(|parts| {
            let body = json!({"path": name, "upload_id": upload, "parts": parts});
            request("complete", &body)
        });
        match ended {
            Ok(_) => Ok(true),
            Err(fault) => {
                // The first fault is the one to report.
                let _ = abort();
                Err(fault)
            }
        }
    }

    fn upload_parts(
        &self,
        path: &Path,
        bytes: u64,
        part_bytes: u64,
        started: &Value,
    ) -> Result<Vec<Value>, Fault> {
        let credentials = started["credentials"].as_array();
        let mut parts = Vec::new();
        for (index, credential) in (0u64..).zip(credentials.into_iter().flatten()) {
            let from = index * part_bytes;
            let mut file = regular_file::open(path).map_err(Error::io(path, "read"))?;
            file.seek(SeekFrom::Start(from))
                .map_err(Error::io(path, "read"))?;
            let target = presigned_target(self.http, credential)?;
            let body = Body::File {
                file,
                bytes: part_bytes.min(bytes.saturating_sub(from)),
            };
            let tag = self.http.put(target, body)?;
            parts.push(json!({
                "part_number": credential["part_number"], "etag": tag.unwrap_or_default(),
                "url": credential["url"].as_str().unwrap_or_default(),
            }));
        }
        Ok(parts)
    }
}

/// The presigned URL for a part.
///
/// # Errors
/// [`Fault::Fatal`] for an invalid address.
pub fn presigned_target(http: &Http, credential: &Value) -> Result<UploadTarget, Fault> {
    let headers = credential["headers"].as_object();
    let headers = headers.into_iter().flatten().map(|(name, value)| {
        let value = value.as_str().unwrap_or_default();
        (name.clone(), value.to_owned())
    });
    let url = credential["url"].as_str().unwrap_or_default();
    http.upload_target(url, &[], headers.collect(), false)
}

/// The local path of `uri`, decoded as MLflow's client does; `None` for another machine or a bucket.
fn local_path(uri: &str, scheme: &str) -> Option<PathBuf> {
    let (host, path) = uri.strip_prefix("file:").map_or(("", uri), split_host);
    let is_here = scheme == "file" && ["", "localhost"].contains(&host);
    is_here.then(|| PathBuf::from(OsString::from_vec(decoded(path))))
}

/// Splits `//host/path` or `/path` into host and path.
fn split_host(rest: &str) -> (&str, &str) {
    match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    }
}

fn copy_to(file: &mut File, to: &Path) -> Result<()> {
    let mut temporary = temporary_file(parent_of(to))?;
    std::io::copy(file, temporary.as_file_mut()).map_err(Error::io(to, "write"))?;
    persist(temporary, to)
}

/// The files at or below `path`, sorted, with their names relative to it; empty if nothing is there. Links to folders
/// are not followed.
pub fn list_files(path: &Path) -> Result<Vec<(PathBuf, String)>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !path.is_dir() {
        let found = path
            .is_file()
            .then(|| (path.to_path_buf(), name.into_owned()));
        return Ok(found.into_iter().collect());
    }
    let mut files = Vec::new();
    let mut folders = vec![(path.to_path_buf(), String::new())];
    while let Some((folder, below)) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(Error::io(&folder, "read the folder"))?;
        for entry in entries {
            let entry = entry.map_err(Error::io(&folder, "read the folder"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let shown = match below.as_str() {
                "" => name.clone(),
                below => format!("{below}/{name}"),
            };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push((entry.path(), shown)),
                Ok(_) if !name.starts_with(TEMP_PREFIX) && entry.path().is_file() => {
                    files.push((entry.path(), shown));
                }
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_recursively() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "sub/a.txt", "sub/deep/c.txt", ".ctseg-x-1-2-abc"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let names = |path: &Path| -> Vec<String> {
            let files = list_files(path).unwrap();
            files.into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(
            names(folder.path()),
            ["b.txt", "sub/a.txt", "sub/deep/c.txt"]
        );
        assert_eq!(names(&folder.path().join("sub/a.txt")), ["a.txt"]);
        assert!(names(&folder.path().join("gone")).is_empty());
        assert_eq!(split_host("//host:1/a/b"), ("host:1", "/a/b"));
        assert_eq!(split_host("/a/b"), ("", "/a/b"));
    }

    #[test]
    fn local_folders_are_distinguished_from_remote_ones() {
        for (uri, scheme, path) in [
            ("file:///a/b%20c", "file", Some("/a/b c")),
            ("file:/a", "file", Some("/a")),
            ("file://localhost/a", "file", Some("/a")),
            ("/a/b:c", "file", Some("/a/b:c")),
            ("file:///a/%2e%2e/b", "file", Some("/a/../b")),
            ("file://nas/a", "file", None),
            ("s3://a/b", "s3", None),
        ] {
            assert_eq!(local_path(uri, scheme), path.map(PathBuf::from), "{uri}");
        }
    }
}
