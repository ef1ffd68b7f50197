//! A report as one self-contained HTML file, and pictures for publications.

mod case_view;
mod charts;
mod downsample;
mod facts;
mod page;
mod page_data;
mod planes;
mod scale;
mod sheet;

use std::path::{Path, PathBuf};

use crate::curves;
use crate::data::Report;
use ctseg_base::Result;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::progress::Observer;

/// Bytes reserved for everything except images: styles, script and tables.
const PAGE_BYTES: usize = 512 << 10;

/// Output paths and size limit of a report.
pub struct Destination<'a> {
    pub file: &'a Path,
    pub pictures: &'a Path,
    /// Size limit of the HTML file in bytes; images are reduced to fit.
    pub max_bytes: usize,
}

/// Result of writing a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub bytes: usize,
    /// Cases whose images are in the page.
    pub cases: usize,
    /// Messages about missing content.
    pub problems: Vec<String>,
    pub pictures: Vec<PathBuf>,
}

/// Writes the page and the pictures. A case whose images cannot be shown does not affect others.
///
/// # Errors
/// The page cannot be written.
pub fn write(report: &Report, to: &Destination, observer: &dyn Observer) -> Result<Written> {
    let room = to.max_bytes.saturating_sub(PAGE_BYTES);
    let views = case_view::case_views(report, to.pictures, room, observer);
    let mut problems: Vec<String> = views.iter().flat_map(|v| v.problems.clone()).collect();
    let mut pictures: Vec<PathBuf> = views.iter().filter_map(|v| v.picture.clone()).collect();
    for run in report.runs.iter().filter(|run| !run.history.is_empty()) {
        let name = case_view::safe_file_name(&run.name);
        let drawn = ["loss", "dice"].map(|what| to.pictures.join(format!("{name}_{what}.png")));
        match curves::draw_to(&run.history, &run.name, [&drawn[0], &drawn[1]]) {
            Ok(()) => pictures.extend(drawn),
            Err(error) => {
                observer.warn(&error.to_string());
                problems.push(error.to_string());
            }
        }
    }
    let page = page::html(report, &views)?;
    write_bytes_atomically(to.file, page.as_bytes())?;
    Ok(Written {
        bytes: page.len(),
        cases: views.iter().filter(|v| v.planes.is_some()).count(),
        problems,
        pictures,
    })
}
