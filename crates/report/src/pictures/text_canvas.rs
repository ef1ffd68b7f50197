//! A plotters backend that draws text with the bitmap font.

use plotters::prelude::{BitMapBackend, DrawingBackend};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingErrorKind,
};

use super::bitmap_font;

pub(super) type Failure = <BitMapBackend<'static> as DrawingBackend>::ErrorType;

/// A bitmap canvas with text from [`bitmap_font`].
pub(super) struct TextCanvas<'a>(pub BitMapBackend<'a>);

type Drawn = std::result::Result<(), DrawingErrorKind<Failure>>;

fn font_size(style: &impl BackendTextStyle) -> bitmap_font::Size {
    if style.size() > 18.0 {
        bitmap_font::LARGE
    } else {
        bitmap_font::SMALL
    }
}

impl DrawingBackend for TextCanvas<'_> {
    type ErrorType = Failure;

    fn get_size(&self) -> (u32, u32) {
        self.0.get_size()
    }

    fn ensure_prepared(&mut self) -> Drawn {
        self.0.ensure_prepared()
    }

    fn present(&mut self) -> Drawn {
        self.0.present()
    }

    fn draw_pixel(&mut self, point: BackendCoord, colour: BackendColor) -> Drawn {
        self.0.draw_pixel(point, colour)
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Drawn {
        self.0.draw_line(from, to, style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        upper_left: BackendCoord,
        bottom_right: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Drawn {
        self.0.draw_rect(upper_left, bottom_right, style, fill)
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (left, top): BackendCoord,
    ) -> Drawn {
        let size = font_size(style);
        let (width, height) = bitmap_font::extent(text, size);
        let (width, height) = (width as i32, height as i32);
        let anchor = style.anchor();
        let dx = match anchor.h_pos {
            HPos::Left => 0,
            HPos::Center => -width / 2,
            HPos::Right => -width,
        };
        let dy = match anchor.v_pos {
            VPos::Top => 0,
            VPos::Center => -height / 2,
            VPos::Bottom => -height,
        };
        let (turn, colour) = (style.transform(), style.color());
        let (wide, high) = self.get_size();
        let mut drawn = Ok(());
        bitmap_font::draw(text, size, &mut |x, y, cover| {
            let (x, y) = turn.transform(x as i32 + dx, y as i32 + dy);
            let (x, y) = (left + x, top + y);
            let inside = (0..wide as i32).contains(&x) && (0..high as i32).contains(&y);
            if inside && drawn.is_ok() {
                let alpha = colour.alpha * f64::from(cover);
                drawn = self.0.draw_pixel((x, y), BackendColor { alpha, ..colour });
            }
        });
        drawn
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> std::result::Result<(u32, u32), DrawingErrorKind<Failure>> {
        let (width, height) = bitmap_font::extent(text, font_size(style));
        Ok((width as u32, height as u32))
    }
}
