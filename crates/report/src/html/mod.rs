//! A report as one HTML file that needs nothing else, and pictures for papers beside it.

mod charts;
mod facts;
mod island;
mod page;
mod planes;
mod scale;
mod sheet;
mod shrink;
mod viewed;

use std::path::{Path, PathBuf};

use crate::curves;
use crate::data::Report;
use ctseg_base::Result;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::progress::Observer;

/// What the page takes beside the images: styles, script, and small tables.
const PAGE_BYTES: usize = 512 << 10;

/// Where a report goes.
pub struct Destination<'a> {
    /// The HTML file.
    pub file: &'a Path,
    /// The folder of the pictures.
    pub pictures: &'a Path,
    /// The file's bytes at most, as far as images decide it.
    pub most_bytes: usize,
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub bytes: usize,
    /// Cases whose images are in the page.
    pub cases: usize,
    /// What is missing in it, in words.
    pub problems: Vec<String>,
    pub pictures: Vec<PathBuf>,
}

/// Writes the page and the pictures. A case whose images cannot be shown costs no other.
///
/// # Errors
/// The page cannot be written.
pub fn write(report: &Report, to: &Destination, observer: &dyn Observer) -> Result<Written> {
    let room = to.most_bytes.saturating_sub(PAGE_BYTES);
    let viewed = viewed::viewed(report, to.pictures, room, observer);
    let mut problems: Vec<String> = viewed.iter().flat_map(|v| v.problems.clone()).collect();
    let mut pictures: Vec<PathBuf> = viewed.iter().filter_map(|v| v.picture.clone()).collect();
    for run in report.runs.iter().filter(|run| !run.history.is_empty()) {
        let name = viewed::plain(&run.name);
        let drawn = ["loss", "dice"].map(|what| to.pictures.join(format!("{name}_{what}.png")));
        match curves::draw_to(&run.history, &run.name, [&drawn[0], &drawn[1]]) {
            Ok(()) => pictures.extend(drawn),
            Err(error) => {
                observer.warn(&error.to_string());
                problems.push(error.to_string());
            }
        }
    }
    let page = page::html(report, &viewed)?;
    write_bytes_atomically(to.file, page.as_bytes())?;
    Ok(Written {
        bytes: page.len(),
        cases: viewed.iter().filter(|v| v.planes.is_some()).count(),
        problems,
        pictures,
    })
}
