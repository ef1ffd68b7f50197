//! Layers of material, painted over one another.

use crate::bounds::Bounds;
use crate::shapes::Shape;
use crate::vectors::{Point, dot};

/// The body region of a point; 1 to 5 are the structures of the label map.
pub(super) type Region = u16;

pub(super) const NONE: Region = 0;
pub(super) const LIVER: Region = 1;
pub(super) const SPLEEN: Region = 2;
pub(super) const KIDNEY_LEFT: Region = 3;
pub(super) const KIDNEY_RIGHT: Region = 4;
pub(super) const STOMACH: Region = 5;
/// Regions from here up are not in the label map.
pub(super) const LUNG: Region = 100;

/// Gas in a hollow organ, in HU.
const GAS_HU: f64 = -930.0;

/// Distance from its surface, in mm, up to which a shape can change the HU of a voxel.
const REACH_MM: f64 = 7.0;

/// HU inside a shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Material {
    pub core_hu: f64,
    /// Thickness in mm and HU of the outermost part (cortex, wall); 0 mm: none.
    pub shell: (f64, f64),
    /// Amplitude of the texture in HU.
    pub texture_hu: f64,
    /// The core contains gas above this height in mm (the patient is supine).
    pub gas_above: f64,
}

impl Material {
    /// A homogeneous material.
    pub fn plain(core_hu: f64, texture_hu: f64) -> Self {
        Self {
            core_hu,
            shell: (0.0, core_hu),
            texture_hu,
            gas_above: f64::INFINITY,
        }
    }

    /// With a shell of `thickness_mm` at `shell_hu`.
    pub fn shelled(self, thickness_mm: f64, shell_hu: f64) -> Self {
        Self {
            shell: (thickness_mm, shell_hu),
            ..self
        }
    }

    /// HU at `depth_mm` below the surface, averaged over a voxel `width_mm` wide; `height_mm` is the
    /// height above the table's zero.
    pub fn hu(&self, depth_mm: f64, width_mm: f64, height_mm: f64, texture: f64) -> f64 {
        let mut core = self.core_hu;
        if self.gas_above.is_finite() {
            core += (GAS_HU - core) * coverage(height_mm - self.gas_above, width_mm);
        }
        let (thickness, shell) = self.shell;
        let hu = if thickness > 0.0 {
            shell + (core - shell) * coverage(depth_mm - thickness, width_mm)
        } else {
            core
        };
        hu + texture * self.texture_hu
    }
}

/// The fraction of a voxel `width_mm` wide that is inside a surface, with its centre `depth_mm` below the surface.
pub(super) fn coverage(depth_mm: f64, width_mm: f64) -> f64 {
    (0.5 + depth_mm / width_mm).clamp(0.0, 1.0)
}

/// A shape filled with a material, painted over what was there before.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub shape: Shape,
    pub material: Material,
    /// The region assigned to points inside; `None` keeps the current one (vessels in the liver).
    pub region: Option<Region>,
    /// Painted only where the current region is this one.
    pub only_in: Option<Region>,
    /// A box beyond which the layer changes nothing.
    pub bounds: Bounds,
}

impl Layer {
    pub fn new(shape: Shape, material: Material, region: Region) -> Self {
        let bounds = shape.bounds().grown(REACH_MM);
        Self {
            shape,
            material,
            region: Some(region),
            only_in: None,
            bounds,
        }
    }

    /// A layer inside `region` that remains part of it.
    pub fn inside(shape: Shape, material: Material, region: Region) -> Self {
        Self {
            region: None,
            only_in: Some(region),
            ..Self::new(shape, material, NONE)
        }
    }
}

/// A voxel being painted: its centre (in the layers' frame), height, texture, and state so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brush {
    pub point: Point,
    pub height_mm: f64,
    pub texture: f64,
    pub hu: f64,
    pub region: Region,
}

impl Brush {
    /// Paints `layer` on a voxel with edge vectors `steps` (in mm, in the layer's frame).
    pub fn paint(&mut self, layer: &Layer, steps: &[Point; 3]) {
        if !layer.bounds.contains(self.point) || layer.only_in.is_some_and(|r| r != self.region) {
            return;
        }
        let surface = layer.shape.at(self.point);
        // The extent of the voxel across the surface.
        let width = steps
            .iter()
            .map(|step| dot(*step, surface.normal).abs())
            .sum::<f64>()
            .max(1e-3);
        let share = coverage(surface.depth_mm, width);
        if share <= 0.0 {
            return;
        }
        let (height, texture) = (self.height_mm, self.texture);
        let hu = layer.material.hu(surface.depth_mm, width, height, texture);
        self.hu += (hu - self.hu) * share;
        if let Some(region) = layer.region
            && surface.depth_mm > 0.0
        {
            self.region = region;
        }
    }
}
