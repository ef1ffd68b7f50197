//! Text as pixels, from letters that were drawn beforehand: no font has to be installed where ctseg runs.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// How high letters are.
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

/// Shows `pixel` the column, the row (both from the upper left corner) and the cover (0 to 1) of every pixel that
/// the text touches. A letter that there is none of is drawn as its nearest in ASCII, or as a question mark.
pub(super) fn draw(text: &str, size: Size, pixel: &mut dyn FnMut(usize, usize, f32)) {
    let width = get_raster_width(FontWeight::Regular, size);
    for (index, letter) in text.chars().enumerate() {
        let Some(raster) = [letter, plain(letter), '?']
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

/// Dashes, quotes and minus signs as they are typed.
fn plain(letter: char) -> char {
    match letter {
        '–' | '—' | '−' => '-',
        '‘' | '’' => '\'',
        '“' | '”' | '„' => '"',
        '…' => '.',
        other => other,
    }
}
