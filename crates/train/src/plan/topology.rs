//! Depth, strides and kernels of a U-Net that follow from spacing and patch: thick slices are neither halved nor
//! looked across until the others are as thick (nnU-Net's `get_pool_and_conv_props`; Isensee et al., Nature
//! Methods 2021).

/// The smallest side of the coarsest level, in voxels.
const SMALLEST_SIDE: usize = 4;

/// Axes whose spacing is at least this many times the finest one are left alone.
const COARSER: f64 = 2.0;

/// What a network on a patch looks like, level by level; axes as the patch's.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// By how much each level is coarser than the one above; 1s for the first.
    pub strides: Vec<Vec<usize>>,
    pub kernels: Vec<Vec<usize>>,
    /// The patch, grown to what the strides divide.
    pub patch: Vec<usize>,
    /// What its sides are multiples of.
    pub multiple: Vec<usize>,
}

impl Topology {
    /// For a patch (in voxels) on a spacing; at most `halvings` levels below the first, and at least one.
    pub fn of(spacing_mm: &[f64], patch: &[usize], halvings: usize) -> Self {
        let axes = spacing_mm.len();
        let (mut spacing, mut size) = (spacing_mm.to_vec(), patch.to_vec());
        let mut kernel = vec![1; axes];
        let (mut strides, mut kernels) = (vec![vec![1; axes]], Vec::new());
        while strides.len() <= halvings {
            let halved = halved_axes(&spacing, &size);
            if halved.is_empty() {
                break;
            }
            let finest = smallest(spacing.iter().copied());
            for axis in 0..axes {
                if spacing[axis] / finest < COARSER {
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
            // A U-Net has two levels, however small the patch.
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

    /// Whether it is what a recipe that names neither strides nor kernels has.
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
    axes.retain(|axis| spacing[*axis] / finest < COARSER);
    match axes[..] {
        [only] if size[only] < 3 * SMALLEST_SIDE => Vec::new(),
        _ => axes,
    }
}

fn smallest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}
