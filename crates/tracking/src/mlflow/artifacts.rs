//! Files to where the server keeps them: through its artifact proxy, large ones in parts where it can, or into a
//! folder that is seen from here.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::artifact_folder::Folder;
use super::error::{Fault, Refusal};
use super::http::{Http, Place};
use super::settings::decoded;
use ctseg_base::atomic_file::{
    TEMPORARY, parent_of, persisted, temporary_file, write_bytes_atomically,
};
use ctseg_base::{Error, Result, regular_file};
use ctseg_http::Body;

const PROXY: &str = "/api/2.0/mlflow-artifacts";

/// How files are cut.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// Smaller files go in one piece.
    pub from_bytes: u64,
    pub part_bytes: u64,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            from_bytes: 100 << 20,
            part_bytes: 64 << 20,
        }
    }
}

/// Stores ask for at most so many parts.
const MOST_PARTS: u64 = 1000;

/// Where the files of one run or model go.
pub struct Store<'a> {
    http: &'a Http,
    parts: Parts,
    kind: Kind,
}

enum Kind {
    /// The server's proxy at an address such as `https://host/mlflow`, and the folder there.
    Proxy {
        base: String,
        folder: Vec<String>,
    },
    Folder(Folder),
}

impl<'a> Store<'a> {
    /// The place that the server calls `uri`.
    ///
    /// # Errors
    /// A place that is not for us, such as a bucket that the server has no proxy for; [`Fault::Place`] for a folder
    /// that is not below the one where the server may have files put.
    pub fn open(http: &'a Http, uri: &str, parts: Parts) -> Result<Self, Fault> {
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
        // Paths have no scheme, and may have a colon.
        let scheme = uri.split_once(':').filter(|(name, _)| !name.contains('/'));
        let (scheme, rest) = scheme.unwrap_or(("file", uri));
        let kind = match scheme {
            "mlflow-artifacts" => {
                let (host, path) = host_and_path(rest);
                Kind::Proxy {
                    base: http.base_at(host),
                    folder: segments(path),
                }
            }
            "http" | "https" => {
                let Some((base, path)) = uri.split_once(&format!("{PROXY}/artifacts")) else {
                    return Err(refused(format!(
                        "files belong at '{uri}', which is no MLflow server's"
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
                        "the server keeps files in '{uri}' and passes none on; start it with --serve-artifacts"
                    )));
                };
                Kind::Folder(Folder::open(&path, http.artifact_root.as_deref())?)
            }
        };
        Ok(Self { http, parts, kind })
    }

    /// What is unsafe about the place.
    pub fn risk(&self) -> Option<String> {
        match &self.kind {
            Kind::Proxy { base, .. } => self.http.risk_at(base),
            Kind::Folder(_) => None,
        }
    }

    /// Puts the file at `path` to `to`, such as `plots/loss.png`. Sent again it replaces itself.
    pub fn put(&self, path: &Path, to: &str) -> Result<(), Fault> {
        let mut file = regular_file::open(path).map_err(Error::io(path, "read"))?;
        let metadata = file.metadata().map_err(Error::io(path, "read"))?;
        let bytes = metadata.len();
        let (base, folder) = match &self.kind {
            Kind::Folder(folder) => {
                return copied(&mut file, &folder.place(to)?).map_err(Fault::from);
            }
            Kind::Proxy { base, folder } => (base, folder),
        };
        if bytes >= self.parts.from_bytes && self.put_in_parts(path, bytes, folder, base, to)? {
            return Ok(());
        }
        self.put_whole(Body::File { file, bytes }, base, folder, to)
    }

    /// The same for text.
    pub fn put_text(&self, text: String, to: &str) -> Result<(), Fault> {
        match &self.kind {
            Kind::Folder(folder) => {
                let path = folder.place(to)?;
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
        let place = self
            .http
            .named_place(&address, &segments, Vec::new(), true)?;
        self.http.put(place, body).map(drop)
    }

    /// False if the server's store takes no parts, or not so many. The parts go to where the server says, which is a place
    /// that it has signed for us.
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
        let part_bytes = self.parts.part_bytes.max(bytes.div_ceil(MOST_PARTS));
        let count = bytes.div_ceil(part_bytes);
        let (within, name) = to.rsplit_once('/').unwrap_or(("", to));
        let mut at: Vec<&str> = folder.iter().map(String::as_str).collect();
        at.extend(within.split('/').filter(|part| !part.is_empty()));
        let at = at.join("/");
        let asked =
            |what: &str, body: &Value| self.http.post(&format!("{PROXY}/mpu/{what}/{at}"), body);
        let begun = match asked("create", &json!({"path": name, "num_parts": count})) {
            // Local stores say 501, old servers 404.
            Err(Fault::Refused(_)) => return Ok(false),
            other => other?,
        };
        let upload = &begun["upload_id"];
        // What is not asked for any more shall not fill the store.
        let abort = || asked("abort", &json!({"path": name, "upload_id": upload})).map(drop);
        let places = begun["credentials"].as_array().map_or(0, Vec::len);
        // With fewer the file would be cut off, and of more there may be any number.
        if places as u64 != count {
            let _ = abort();
            return Ok(false);
        }
        let sent = self.parts_sent(path, bytes, part_bytes, &begun);
        let ended = sent.and_then(|parts| {
            let body = json!({"path": name, "upload_id": upload, "parts": parts});
            asked("complete", &body)
        });
        match ended {
            Ok(_) => Ok(true),
            Err(fault) => {
                // The first fault is the one to tell.
                let _ = abort();
                Err(fault)
            }
        }
    }

    fn parts_sent(
        &self,
        path: &Path,
        bytes: u64,
        part_bytes: u64,
        begun: &Value,
    ) -> Result<Vec<Value>, Fault> {
        let credentials = begun["credentials"].as_array();
        let mut parts = Vec::new();
        for (index, credential) in (0u64..).zip(credentials.into_iter().flatten()) {
            let from = index * part_bytes;
            let mut file = regular_file::open(path).map_err(Error::io(path, "read"))?;
            file.seek(SeekFrom::Start(from))
                .map_err(Error::io(path, "read"))?;
            let place = signed_place(self.http, credential)?;
            let body = Body::File {
                file,
                bytes: part_bytes.min(bytes.saturating_sub(from)),
            };
            let tag = self.http.put(place, body)?;
            parts.push(json!({
                "part_number": credential["part_number"], "etag": tag.unwrap_or_default(),
                "url": credential["url"].as_str().unwrap_or_default(),
            }));
        }
        Ok(parts)
    }
}

/// Where a part goes: a place that the server has signed for us.
///
/// # Errors
/// [`Fault::Closed`] for an address that is none.
pub fn signed_place(http: &Http, credential: &Value) -> Result<Place, Fault> {
    let headers = credential["headers"].as_object();
    let headers = headers.into_iter().flatten().map(|(name, value)| {
        let value = value.as_str().unwrap_or_default();
        (name.clone(), value.to_owned())
    });
    let url = credential["url"].as_str().unwrap_or_default();
    http.named_place(url, &[], headers.collect(), false)
}

/// The path on this machine that the server names by `uri`, decoded as MLflow's client does; none where it is another
/// machine's or a bucket.
fn local_path(uri: &str, scheme: &str) -> Option<PathBuf> {
    let (host, path) = uri.strip_prefix("file:").map_or(("", uri), host_and_path);
    let is_here = scheme == "file" && ["", "localhost"].contains(&host);
    is_here.then(|| PathBuf::from(OsString::from_vec(decoded(path))))
}

/// `//host/path` or `/path`.
fn host_and_path(rest: &str) -> (&str, &str) {
    match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    }
}

fn copied(file: &mut File, to: &Path) -> Result<()> {
    let mut temporary = temporary_file(parent_of(to))?;
    std::io::copy(file, temporary.as_file_mut()).map_err(Error::io(to, "write"))?;
    persisted(temporary, to)
}

/// The files at or below `path` and what they are called there, in order; none where nothing is there any more.
/// Links to folders are not followed.
pub fn files_of(path: &Path) -> Result<Vec<(PathBuf, String)>> {
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
                Ok(_) if !name.starts_with(TEMPORARY) && entry.path().is_file() => {
                    files.push((entry.path(), shown));
                }
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

/// SHA-256 of a file's bytes, in hexadecimal digits.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = regular_file::open(path).map_err(Error::io(path, "read"))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(Error::io(path, "read"))?;
    Ok(format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_searched_to_the_bottom() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "sub/a.txt", "sub/deep/c.txt", ".ctseg-x-1-2-abc"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let names = |path: &Path| -> Vec<String> {
            let files = files_of(path).unwrap();
            files.into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(
            names(folder.path()),
            ["b.txt", "sub/a.txt", "sub/deep/c.txt"]
        );
        assert_eq!(names(&folder.path().join("sub/a.txt")), ["a.txt"]);
        assert!(names(&folder.path().join("gone")).is_empty());
        assert_eq!(host_and_path("//host:1/a/b"), ("host:1", "/a/b"));
        assert_eq!(host_and_path("/a/b"), ("", "/a/b"));
    }

    #[test]
    fn folders_of_this_machine_are_told_from_those_of_others() {
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
