//! Line charts as pictures.

use std::path::Path;

use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::{
    BitMapBackend, ChartBuilder, Circle, DrawingArea, IntoDrawingArea, IntoTextStyle, PathElement,
    Text,
};
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::{Color, RGBColor, ShapeStyle};

use super::text_canvas::{Failure, TextCanvas};
use super::{Picture, bitmap_font};
use ctseg_base::{Error, Result};

const WIDTH: usize = 1100;
const HEIGHT: usize = 640;
const LEGEND: usize = 300;

/// Maximum number of curves in the legend.
const MAX_LEGEND_ENTRIES: usize = 26;

/// Number of colours in the palette.
pub const COLOURS: usize = 8;

/// A colour-blind safe palette (Okabe and Ito, 2008), dark enough for a white background.
const PALETTE: [RGBColor; COLOURS] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(120, 94, 180),
    RGBColor(200, 140, 0),
    RGBColor(70, 160, 210),
    RGBColor(90, 90, 90),
];

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    Line,
    Dashes,
    /// Dots on a thin line, for values that are not measured every epoch.
    Dots,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    pub name: String,
    /// (x, y); non-finite points are skipped.
    pub points: Vec<(f64, f64)>,
    /// Palette index; related curves share a colour.
    pub colour: usize,
    pub stroke: Stroke,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Minimum range of the y axis, such as 0 to 1 for Dice; extended to include every curve.
    pub y_range: Option<(f64, f64)>,
    pub curves: Vec<Curve>,
}

impl Chart {
    /// Draws the chart and writes it as a PNG file, atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        self.drawn()
            .map_err(|problem| Error::file(path, format!("cannot draw the chart: {problem}")))?
            .write_png(path)
    }

    /// The chart as pixels.
    fn drawn(&self) -> std::result::Result<Picture, String> {
        let mut picture = Picture::filled(WIDTH, HEIGHT, [255; 3]);
        {
            let size = (WIDTH as u32, HEIGHT as u32);
            let pixels = BitMapBackend::with_buffer(&mut picture.rgb, size);
            let root = TextCanvas(pixels).into_drawing_area();
            let problem = |error: Problem| error.to_string();
            let (plot, legend) = root.split_horizontally((WIDTH - LEGEND) as u32);
            self.draw_curves(&plot).map_err(problem)?;
            self.draw_legend(&legend).map_err(problem)?;
            root.present().map_err(|error| error.to_string())?;
        }
        Ok(picture)
    }

    fn draw_curves(&self, area: &Area) -> std::result::Result<(), Problem> {
        let ((left, right), (low, high)) = (self.x_range(), self.y_limits());
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("mono", 20))
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(84)
            .build_cartesian_2d(left..right, low..high)?;
        let decimals = decimals(high - low);
        let x_decimals = self.x_decimals(right - left);
        chart
            .configure_mesh()
            .light_line_style(RGBColor(244, 244, 244))
            .bold_line_style(RGBColor(222, 222, 222))
            .axis_style(RGBColor(120, 120, 120))
            .label_style(("mono", 16))
            .x_labels(10)
            .y_labels(10)
            .x_label_formatter(&|x| format!("{x:.x_decimals$}"))
            .y_label_formatter(&|y| format!("{y:.decimals$}"))
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .draw()?;
        for curve in &self.curves {
            let style = curve.style();
            let points = curve.finite();
            match curve.stroke {
                Stroke::Line => {
                    chart.draw_series(LineSeries::new(points.clone(), style))?;
                }
                Stroke::Dashes => {
                    chart.draw_series(DashedLineSeries::new(points.clone(), 7, 5, style))?;
                }
                Stroke::Dots => {
                    let thin = style.color.mix(0.45).stroke_width(1);
                    chart.draw_series(LineSeries::new(points.clone(), thin))?;
                }
            }
            // A single point needs a dot, as it has no line.
            if curve.stroke == Stroke::Dots || points.len() == 1 {
                let dot = |point| Circle::new(point, 3, style.color.filled());
                chart.draw_series(points.into_iter().map(dot))?;
            }
        }
        Ok(())
    }

    fn draw_legend(&self, area: &Area) -> std::result::Result<(), Problem> {
        let text = ("mono", 16).into_text_style(area);
        let max_letters = (LEGEND - 60) / bitmap_font::extent("x", bitmap_font::SMALL).0;
        for (row, curve) in self.curves.iter().take(MAX_LEGEND_ENTRIES).enumerate() {
            let y = 52 + 22 * row as i32;
            let style = curve.style();
            let pieces: &[(i32, i32)] = match curve.stroke {
                Stroke::Dashes => &[(4, 14), (20, 30)],
                _ => &[(4, 34)],
            };
            for (from, to) in pieces {
                area.draw(&PathElement::new(vec![(*from, y), (*to, y)], style))?;
            }
            if curve.stroke == Stroke::Dots {
                area.draw(&Circle::new((19, y), 3, style.color.filled()))?;
            }
            let name: String = curve.name.chars().take(max_letters).collect();
            area.draw(&Text::new(name, (42, y - 9), text.clone()))?;
        }
        if let Some(more) = self
            .curves
            .len()
            .checked_sub(MAX_LEGEND_ENTRIES)
            .filter(|more| *more > 0)
        {
            let y = 52 + 22 * MAX_LEGEND_ENTRIES as i32 - 9;
            area.draw(&Text::new(format!("and {more} more"), (42, y), text))?;
        }
        Ok(())
    }

    fn x_range(&self) -> (f64, f64) {
        let points = self.curves.iter().flat_map(Curve::finite);
        let (low, high) = limits(points.map(|(x, _)| x)).unwrap_or((0.0, 1.0));
        if high > low {
            (low, high)
        } else {
            (low - 0.5, low + 0.5)
        }
    }

    /// Decimals of x labels: 0 if all values are integers, such as epochs.
    fn x_decimals(&self, range: f64) -> usize {
        let mut points = self.curves.iter().flat_map(Curve::finite);
        match points.all(|(x, _)| x.fract() == 0.0) {
            true => 0,
            false => decimals(range),
        }
    }

    fn y_limits(&self) -> (f64, f64) {
        let points = self.curves.iter().flat_map(Curve::finite);
        let shown = self.y_range.map(|(low, high)| [low, high]);
        let values = points.map(|(_, y)| y).chain(shown.into_iter().flatten());
        let (low, high) = limits(values).unwrap_or((0.0, 1.0));
        match self.y_range {
            Some(range) if range == (low, high) => range,
            _ => {
                let edge = (0.05 * (high - low)).max(1e-6 * low.abs().max(1e-6));
                (low - edge, high + edge)
            }
        }
    }
}

impl Curve {
    fn finite(&self) -> Vec<(f64, f64)> {
        let finite = |(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
        self.points.iter().filter(finite).copied().collect()
    }

    fn style(&self) -> ShapeStyle {
        PALETTE[self.colour % COLOURS].stroke_width(2)
    }
}

/// The smallest and the largest of the finite values.
pub(crate) fn limits(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let values = values.filter(|value| value.is_finite());
    values.fold(None, |limits, value| match limits {
        None => Some((value, value)),
        Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
    })
}

/// Number of decimals that distinguish ten steps of a range.
fn decimals(range: f64) -> usize {
    (1.0 - (range / 10.0).log10()).ceil().clamp(0.0, 6.0) as usize
}

type Area<'a> = DrawingArea<TextCanvas<'a>, Shift>;
type Problem = DrawingAreaErrorKind<Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let curve = |name: &str, colour, stroke, of: &dyn Fn(f64) -> f64| Curve {
            name: name.to_owned(),
            points: (1..=40).map(|x| (f64::from(x), of(f64::from(x)))).collect(),
            colour,
            stroke,
        };
        Chart {
            title: "Loss".to_owned(),
            x_label: "epoch".to_owned(),
            y_label: "loss".to_owned(),
            y_range: Some((0.0, 1.0)),
            curves: vec![
                curve("training", 0, Stroke::Line, &|x| 1.0 / x),
                curve("validation", 0, Stroke::Dashes, &|x| 1.0 / x + 0.1),
                curve("training cases", 1, Stroke::Dots, &|x| {
                    (0.1 * x).sin().abs()
                }),
            ],
        }
    }

    fn has(picture: &Picture, colour: RGBColor) -> bool {
        let wanted = [colour.0, colour.1, colour.2];
        picture.rgb.chunks_exact(3).any(|pixel| pixel == wanted)
    }

    #[test]
    fn every_curve_is_drawn_and_the_picture_is_reproducible() {
        let picture = chart().drawn().unwrap();
        assert!(has(&picture, PALETTE[0]) && has(&picture, PALETTE[1]));
        assert!(!has(&picture, PALETTE[2]));
        assert!(picture == chart().drawn().unwrap());
        if let Some(path) = std::env::var_os("CTSEG_SHOW_CHART") {
            chart().write_png(Path::new(&path)).unwrap();
        }
    }

    #[test]
    fn degenerate_curves_are_drawn() {
        let mut chart = chart();
        chart.curves[0].points = vec![(1.0, f64::NAN), (2.0, 0.5)]; // one finite point
        chart.curves[1].points.clear();
        chart.curves[2].points = vec![(1.0, 3.0); 2]; // beyond the minimum range
        let picture = chart.drawn().unwrap();
        assert!(has(&picture, PALETTE[0]) && has(&picture, PALETTE[1]));
        chart.curves.clear();
        chart.y_range = None;
        chart.drawn().unwrap();
        chart.curves = (0..40)
            .map(|index| Curve {
                name: format!("trial {index} with a name that is longer than there is room for"),
                points: vec![(0.0, 0.0), (1.0, 1e-9)],
                colour: index,
                stroke: Stroke::Line,
            })
            .collect();
        chart.drawn().unwrap();
    }
}
