//! Text rendered with an embedded bitmap font, so that no font has to be installed.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// Font height.
pub(super) type Size = RasterHeight;

/// 16 pixels high.
pub(super) const SMALL: Size = RasterHeight::Size16;

/// 20 pixels high.
pub(super) const LARGE: Size = RasterHeight::Size20;

/// Width and height of a line of text in pixels.
pub(super) fn extent(text: &str, size: Size) -> (usize, usize) {
    let width = get_raster_width(FontWeight::Regular, size);
    (text.chars().count() * width, size.val())
}

/// Calls `pixel` with column, row (from the upper left corner) and coverage (0 to 1) of every pixel of the text. A
/// missing glyph is replaced by a similar ASCII character or a question mark.
pub(super) fn draw(text: &str, size: Size, pixel: &mut dyn FnMut(usize, usize, f32)) {
    let width = get_raster_width(FontWeight::Regular, size);
    for (index, letter) in text.chars().enumerate() {
        let Some(raster) = [letter, ascii(letter), '?']
            .into_iter()
            .find_map(|letter| get_raster(letter, FontWeight::Regular, size))
        else {
            continue;
        };
        for (y, row) in raster.rows().enumerate() {
            for (x, cover) in row.iter().enumerate().filter(|(_, cover)| **cover > 0) {
                pixel(index * width + x, y, f32::from(*cover) / 255.0);
            }
        }
    }
}

/// ASCII replacements of dashes, quotes and minus signs.
fn ascii(letter: char) -> char {
    match letter {
        '–' | '—' | '−' => '-',
        '‘' | '’' => '\'',
        '“' | '”' | '„' => '"',
        '…' => '.',
        other => other,
    }
}
