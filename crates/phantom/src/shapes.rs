//! Solids as signed distance functions; organs are combinations of a few of them.

use crate::bounds::{Bounds, around};
use crate::vectors::{IDENTITY, Point, Rotation, dot, minus, rotated, rotated_back, unit};

/// Depth of a point below a surface in mm (negative outside; exact on the surface, first order near it), and the
/// surface normal, of length 1 or 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surface {
    pub depth_mm: f64,
    pub normal: Point,
}

/// A point far outside.
const FAR_OUTSIDE: Surface = Surface {
    depth_mm: -1e3,
    normal: [0.0; 3],
};

/// A solid; lengths in mm. A radius of infinity makes an ellipsoid a cylinder or a slab.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Ellipsoid {
        centre: Point,
        radii: Point,
        turn: Rotation,
    },
    /// An infinite cylinder along z whose cross-section is a superellipse of exponent 2.5.
    Torso {
        radii: [f64; 2],
    },
    /// The upper half of an ellipsoid, continued below z = 0 as a cylinder.
    Dome {
        radii: Point,
    },
    /// All points within `radius` of a segment.
    Capsule {
        from: Point,
        to: Point,
        radius: f64,
    },
    /// Oval tubes along an ellipse, one every `period` along z, lower at the front by `slope`.
    Ribs {
        radii: [f64; 2],
        period: f64,
        slope: f64,
        section: [f64; 2],
    },
    /// `shape`, which is centred at z = 0, repeated along z with `period`.
    Repeated {
        shape: Box<Shape>,
        period: f64,
    },
    /// Union with concave edges smoothed over about `blend` mm.
    Union {
        parts: Vec<Shape>,
        blend: f64,
    },
    Intersection(Vec<Shape>),
    Difference(Box<Shape>, Box<Shape>),
}

impl Shape {
    /// An ellipsoid with its axes along x, y, z.
    pub fn ellipsoid(centre: Point, radii: Point) -> Self {
        Self::Ellipsoid {
            centre,
            radii,
            turn: IDENTITY,
        }
    }

    /// An infinite elliptic cylinder along z.
    pub fn column(centre: [f64; 2], radii: [f64; 2]) -> Self {
        Self::ellipsoid(
            [centre[0], centre[1], 0.0],
            [radii[0], radii[1], f64::INFINITY],
        )
    }

    /// All points within `half_mm` of the plane through the origin perpendicular to `axis`.
    pub fn slab(axis: usize, half_mm: f64) -> Self {
        let mut radii = [f64::INFINITY; 3];
        radii[axis] = half_mm;
        Self::ellipsoid([0.0; 3], radii)
    }

    /// Depth and normal at `p`.
    pub fn at(&self, p: Point) -> Surface {
        match self {
            Self::Ellipsoid {
                centre,
                radii,
                turn,
            } => {
                let surface = ellipsoid(rotated_back(turn, minus(p, *centre)), *radii);
                Surface {
                    normal: rotated(turn, surface.normal),
                    ..surface
                }
            }
            Self::Torso { radii } => torso(p, *radii),
            Self::Dome { radii } => ellipsoid([p[0], p[1], p[2].max(0.0)], *radii),
            Self::Capsule { from, to, radius } => capsule(p, *from, *to, *radius),
            Self::Ribs {
                radii,
                period,
                slope,
                section,
            } => ribs(p, *radii, *period, *slope, *section),
            Self::Repeated { shape, period } => {
                shape.at([p[0], p[1], p[2] - period * (p[2] / period).round()])
            }
            Self::Union { parts, blend } => parts
                .iter()
                .map(|part| part.at(p))
                .reduce(|a, b| blended(a, b, *blend))
                .unwrap_or(FAR_OUTSIDE),
            Self::Intersection(parts) => parts
                .iter()
                .map(|part| part.at(p))
                .reduce(shallower)
                .unwrap_or(FAR_OUTSIDE),
            Self::Difference(whole, hole) => {
                let hole = hole.at(p);
                shallower(
                    whole.at(p),
                    Surface {
                        depth_mm: -hole.depth_mm,
                        normal: hole.normal,
                    },
                )
            }
        }
    }

    pub fn bounds(&self) -> Bounds {
        match self {
            Self::Ellipsoid {
                centre,
                radii,
                turn,
            } => {
                let half = turn.map(|row| {
                    // Skip zero cosines: 0 times an infinite radius is NaN.
                    let terms = (0..3).filter(|i| row[*i] != 0.0);
                    terms.map(|i| (row[i] * radii[i]).powi(2)).sum::<f64>()
                });
                around(*centre, half.map(f64::sqrt))
            }
            Self::Torso { radii } => around([0.0; 3], [radii[0], radii[1], f64::INFINITY]),
            Self::Dome { radii } => Bounds {
                low: [-radii[0], -radii[1], f64::NEG_INFINITY],
                high: *radii,
            },
            Self::Capsule { from, to, radius } => Bounds {
                low: std::array::from_fn(|i| from[i].min(to[i]) - radius),
                high: std::array::from_fn(|i| from[i].max(to[i]) + radius),
            },
            Self::Ribs { radii, section, .. } => around(
                [0.0; 3],
                [radii[0] + section[0], radii[1] + section[0], f64::INFINITY],
            ),
            Self::Repeated { shape, .. } => {
                let mut bounds = shape.bounds();
                bounds.low[2] = f64::NEG_INFINITY;
                bounds.high[2] = f64::INFINITY;
                bounds
            }
            Self::Union { parts, blend } => {
                let joined = merged(parts, f64::min, f64::max);
                joined.grown(*blend / 4.0)
            }
            Self::Intersection(parts) => merged(parts, f64::max, f64::min),
            Self::Difference(whole, _) => whole.bounds(),
        }
    }
}

fn merged(parts: &[Shape], low: fn(f64, f64) -> f64, high: fn(f64, f64) -> f64) -> Bounds {
    parts
        .iter()
        .map(Shape::bounds)
        .reduce(|a, b| Bounds {
            low: std::array::from_fn(|i| low(a.low[i], b.low[i])),
            high: std::array::from_fn(|i| high(a.high[i], b.high[i])),
        })
        .unwrap_or(around([0.0; 3], [0.0; 3]))
}

/// Distance to an ellipsoid, first order: k0 (k0 − 1) / k1 with k0 = |p/r|, k1 = |p/r²| (Quilez,
/// "ellipsoid SDF").
fn ellipsoid(p: Point, radii: Point) -> Surface {
    let scaled: Point = std::array::from_fn(|i| p[i] / radii[i]);
    let gradient: Point = std::array::from_fn(|i| scaled[i] / radii[i]);
    let (k0, k1) = (dot(scaled, scaled).sqrt(), dot(gradient, gradient).sqrt());
    if k1 < 1e-12 {
        return Surface {
            depth_mm: radii.into_iter().fold(f64::INFINITY, f64::min),
            normal: [0.0; 3],
        };
    }
    Surface {
        depth_mm: k0 * (1.0 - k0) / k1,
        normal: gradient.map(|v| v / k1),
    }
}

fn torso(p: Point, radii: [f64; 2]) -> Surface {
    let scaled = [p[0] / radii[0], p[1] / radii[1]];
    let power = scaled.map(|v| v.abs() * v.abs().sqrt()); // |v|^1.5
    let sum: f64 = (0..2).map(|i| power[i] * scaled[i].abs()).sum();
    let level = sum.powf(0.4);
    // The gradient of sum^0.4, smaller than 1/radius only at the centre.
    let steepness = if level > 0.0 { level / sum } else { 0.0 };
    let gradient = [0, 1].map(|i| steepness * power[i] * scaled[i].signum() / radii[i]);
    let slope = gradient[0].hypot(gradient[1]);
    if slope < 1e-12 {
        return Surface {
            depth_mm: radii[0].min(radii[1]),
            normal: [0.0; 3],
        };
    }
    Surface {
        depth_mm: (1.0 - level) / slope,
        normal: [gradient[0] / slope, gradient[1] / slope, 0.0],
    }
}

fn capsule(p: Point, from: Point, to: Point, radius: f64) -> Surface {
    let (along, offset) = (minus(to, from), minus(p, from));
    let length = dot(along, along).max(1e-12);
    let t = (dot(offset, along) / length).clamp(0.0, 1.0);
    let away = minus(offset, along.map(|v| v * t));
    Surface {
        depth_mm: radius - dot(away, away).sqrt(),
        normal: unit(away),
    }
}

fn ribs(p: Point, radii: [f64; 2], period: f64, slope: f64, section: [f64; 2]) -> Surface {
    let height = p[2] + slope * (p[1] + radii[1]);
    let rib = (height / period).round();
    if rib < 0.0 {
        return FAR_OUTSIDE;
    }
    let wall = ellipsoid(p, [radii[0], radii[1], f64::INFINITY]);
    let across = (height - rib * period) / slope.hypot(1.0);
    let tube = ellipsoid(
        [wall.depth_mm, across, 0.0],
        [section[0], section[1], f64::INFINITY],
    );
    let normal = unit([
        tube.normal[0] * wall.normal[0],
        tube.normal[0] * wall.normal[1],
        tube.normal[1],
    ]);
    // The anterior part is cartilage.
    let bony = Surface {
        depth_mm: 0.55 * radii[1] - p[1],
        normal: [0.0, 1.0, 0.0],
    };
    shallower(Surface { normal, ..tube }, bony)
}

fn shallower(a: Surface, b: Surface) -> Surface {
    if b.depth_mm < a.depth_mm { b } else { a }
}

/// Smooth maximum of two depths, by a quadratic over `blend` mm.
fn blended(a: Surface, b: Surface, blend: f64) -> Surface {
    let share = (0.5 + 0.5 * (b.depth_mm - a.depth_mm) / blend).clamp(0.0, 1.0);
    let mix = |u: f64, v: f64| u + (v - u) * share;
    Surface {
        depth_mm: mix(a.depth_mm, b.depth_mm) + blend * share * (1.0 - share),
        normal: unit(std::array::from_fn(|i| mix(a.normal[i], b.normal[i]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::rotation;

    #[test]
    fn depths_match_geometry_on_the_axes() {
        let near = |shape: &Shape, p: Point, depth: f64| {
            let found = shape.at(p).depth_mm;
            assert!((found - depth).abs() < 1e-9, "{shape:?} at {p:?}: {found}");
        };
        let egg = Shape::ellipsoid([10.0, 0.0, -5.0], [20.0, 30.0, 40.0]);
        near(&egg, [33.0, 0.0, -5.0], -3.0);
        near(&egg, [10.0, -27.0, -5.0], 3.0);
        near(&egg, [10.0, 0.0, 35.0], 0.0);
        let turned = Shape::Ellipsoid {
            centre: [0.0; 3],
            radii: [20.0, 30.0, 40.0],
            turn: rotation([0.0, 0.0, 90.0]),
        };
        near(&turned, [28.0, 0.0, 0.0], 2.0);
        near(
            &Shape::Torso {
                radii: [140.0, 90.0],
            },
            [0.0, -88.0, 500.0],
            2.0,
        );
        let dome = Shape::Dome {
            radii: [100.0, 70.0, 90.0],
        };
        near(&dome, [0.0, 0.0, 89.0], 1.0);
        near(&dome, [99.0, 0.0, -300.0], 1.0);
        let rod = Shape::Capsule {
            from: [0.0; 3],
            to: [0.0, 10.0, 0.0],
            radius: 4.0,
        };
        near(&rod, [3.0, 5.0, 0.0], 1.0);
        near(&rod, [0.0, 16.0, 0.0], -2.0);
        let hollow = Shape::Difference(Box::new(egg), Box::new(Shape::slab(2, 5.0)));
        near(&hollow, [10.0, 0.0, 3.0], -2.0);
    }

    #[test]
    fn bounds_contain_all_inside_points() {
        let egg = Shape::Ellipsoid {
            centre: [3.0, -4.0, 5.0],
            radii: [8.0, 16.0, 30.0],
            turn: rotation([25.0, -40.0, 70.0]),
        };
        let shape = Shape::Union {
            parts: vec![egg, Shape::ellipsoid([20.0, 0.0, 0.0], [12.0; 3])],
            blend: 14.0,
        };
        let (bounds, mut inside) = (shape.bounds(), 0);
        for i in 0..64_000 {
            let p = [i % 40, i / 40 % 40, i / 1600].map(|v| 2.0 * f64::from(v) - 40.0);
            if shape.at(p).depth_mm > 0.0 {
                inside += 1;
                assert!(bounds.contains(p), "{p:?} outside {bounds:?}");
            }
        }
        assert!(inside > 1000);
    }

    #[test]
    fn normals_point_along_the_gradient() {
        let shapes = [
            Shape::Torso {
                radii: [140.0, 90.0],
            },
            Shape::Ellipsoid {
                centre: [80.0, 40.0, 0.0],
                radii: [30.0, 20.0, 50.0],
                turn: rotation([10.0, 20.0, 30.0]),
            },
            Shape::Capsule {
                from: [0.0; 3],
                to: [60.0, 10.0, 9.0],
                radius: 40.0,
            },
        ];
        for shape in shapes {
            let p = [95.0, 55.0, 12.0];
            let numeric: Point = std::array::from_fn(|i| {
                let mut q = p;
                q[i] += 1e-4;
                shape.at(q).depth_mm - shape.at(p).depth_mm
            });
            let cosine = dot(unit(numeric), shape.at(p).normal).abs();
            assert!(cosine > 0.97, "{shape:?}: {cosine}");
        }
    }
}
