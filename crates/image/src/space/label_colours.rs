//! Label colours, the same in every output.

/// Colours of the first labels, easy to distinguish on grey CT.
const FIRST: [[u8; 3]; 12] = [
    [230, 60, 60],
    [70, 140, 255],
    [60, 200, 80],
    [255, 205, 40],
    [195, 90, 240],
    [40, 210, 220],
    [255, 130, 30],
    [255, 130, 190],
    [170, 220, 60],
    [160, 120, 80],
    [115, 100, 255],
    [0, 160, 130],
];

/// Saturation and brightness of later labels, used in rotation.
const SHADES: [(f64, f64); 5] = [(0.65, 1.0), (0.95, 0.8), (0.4, 0.9), (0.8, 0.6), (0.5, 0.7)];

/// The RGB colour of a label: fixed, and distinct from nearby labels. Consecutive hues are a golden angle apart, so
/// that any number of labels spreads over the colour wheel.
pub fn label_colour(label: u16) -> [u8; 3] {
    let index = usize::from(label).wrapping_sub(1);
    if let Some(colour) = FIRST.get(index) {
        return *colour;
    }
    let (saturation, brightness) = SHADES[usize::from(label) % SHADES.len()];
    let hue = (f64::from(label) * 0.618_033_988_749_895).fract() * 6.0;
    // HSV to RGB: `max − chroma · …` on the hue hexagon for red, green and blue.
    [5.0, 3.0, 1.0].map(|offset: f64| {
        let at = (offset + hue) % 6.0;
        let share = at.min(4.0 - at).clamp(0.0, 1.0);
        (255.0 * brightness * (1.0 - saturation * share)).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_bright_and_distinct() {
        let all: Vec<[u8; 3]> = (1..=256).map(label_colour).collect();
        for (index, colour) in all.iter().enumerate() {
            assert!(*colour.iter().max().unwrap() >= 150, "{index}: {colour:?}");
            let nearest = all[..index.min(120)]
                .iter()
                .map(|other| (0..3).map(|i| colour[i].abs_diff(other[i])).max().unwrap())
                .min();
            let least = if index < 12 { 40 } else { 1 };
            assert!(nearest.is_none_or(|n| n >= least), "{index}: {colour:?}");
        }
        assert_eq!(label_colour(1), [230, 60, 60]);
    }
}
