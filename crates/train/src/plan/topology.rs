//! Derives depth, strides and kernels of a U-Net from spacing and patch: coarse axes are neither pooled nor convolved
//! until the others are as coarse (nnU-Net's `get_pool_and_conv_props`; Isensee et al., Nature Methods 2021).

/// Minimum side of the coarsest level, in voxels.
const SMALLEST_SIDE: usize = 4;

/// Axes with at least this many times the finest spacing are not pooled.
const COARSE_RATIO: f64 = 2.0;

/// The levels of a network on a patch; axes in the patch's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Strides of each level relative to the one above; 1 for the first.
    pub strides: Vec<Vec<usize>>,
    pub kernels: Vec<Vec<usize>>,
    /// The patch, rounded up to multiples of the strides.
    pub patch: Vec<usize>,
    /// The product of the strides; the sides of the patch are multiples of it.
    pub multiple: Vec<usize>,
}

impl Topology {
    /// The topology for a patch (in voxels) at a spacing, with 1 to `max_halvings` levels below the first.
    pub fn of(spacing_mm: &[f64], patch: &[usize], max_halvings: usize) -> Self {
        let axes = spacing_mm.len();
        let (mut spacing, mut size) = (spacing_mm.to_vec(), patch.to_vec());
        let mut kernel = vec![1; axes];
        let (mut strides, mut kernels) = (vec![vec![1; axes]], Vec::new());
        while strides.len() <= max_halvings {
            let halved = halved_axes(&spacing, &size);
            if halved.is_empty() {
                break;
            }
            let finest = smallest(spacing.iter().copied());
            for axis in 0..axes {
                if spacing[axis] / finest < COARSE_RATIO {
                    kernel[axis] = 3;
                }
            }
            kernels.push(kernel.clone());
            let mut stride = vec![1; axes];
            for axis in halved {
                stride[axis] = 2;
                spacing[axis] *= 2.0;
                size[axis] = size[axis].div_ceil(2);
            }
            strides.push(stride);
        }
        if strides.len() == 1 {
            // A U-Net has at least two levels, however small the patch.
            strides.push(vec![2; axes]);
            kernels.push(vec![3; axes]);
        }
        kernels.push(vec![3; axes]);
        let multiple: Vec<usize> = (0..axes)
            .map(|axis| strides.iter().map(|stride| stride[axis]).product())
            .collect();
        let whole = patch.iter().zip(&multiple);
        Self {
            patch: whole.map(|(side, of)| side.div_ceil(*of) * of).collect(),
            strides,
            kernels,
            multiple,
        }
    }

    pub fn levels(&self) -> usize {
        self.strides.len()
    }

    /// Whether strides and kernels are the defaults of a recipe that sets neither.
    pub fn is_plain(&self) -> bool {
        let all = |lists: &[Vec<usize>], value| lists.iter().flatten().all(|v| *v == value);
        all(&self.strides[1..], 2) && all(&self.kernels, 3)
    }
}

/// The axes that the next level halves.
fn halved_axes(spacing: &[f64], size: &[usize]) -> Vec<usize> {
    let long = |axis: &usize| size[*axis] >= 2 * SMALLEST_SIDE;
    let mut axes: Vec<usize> = (0..spacing.len()).filter(long).collect();
    let finest = smallest(axes.iter().map(|axis| spacing[*axis]));
    axes.retain(|axis| spacing[*axis] / finest < COARSE_RATIO);
    match axes[..] {
        [only] if size[only] < 3 * SMALLEST_SIDE => Vec::new(),
        _ => axes,
    }
}

fn smallest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}
