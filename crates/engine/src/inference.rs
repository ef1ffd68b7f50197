//! Inference with trained networks on one engine.

pub use crate::host_tensor::Logits;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ndarray::Array2;

use crate::attention_maps::{enlarged, mean_of};
use crate::device::{Compute, DeviceChoice};
use crate::engine::Engine;
use crate::networks::{Extras, HeadTensors, Network};
use crate::quantisation::{Convolutions, ConvolutionsFrom, InputRanges};
use ctseg_base::{Error, Result};

/// The networks of a stage's folds; their logits are averaged.
pub struct Inference {
    engine: &'static dyn Engine,
    networks: Vec<Network>,
    convolutions: Convolutions,
    compute: Compute,
    /// Number of parts into which a batch is split; grows when memory runs out.
    parts: AtomicUsize,
    wanted: Wanted,
}

/// Which output to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Logits,
    Attention,
    /// Input features of the head.
    Features,
}

/// A network's last layer, a 1×1 convolution: the logit of a structure is its row of weights times the features, plus
/// its bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// (structure, feature)
    pub weights: Array2<f32>,
    pub biases: Vec<f32>,
}

impl Inference {
    /// `networks` must be on `compute`'s device.
    pub fn new(networks: Vec<Network>, compute: &Compute) -> Result<Self> {
        let engine = compute.choice.engine()?;
        let prepared = networks
            .into_iter()
            .map(|network| engine.prepare_for_inference(network, compute.precision));
        Ok(Self {
            engine,
            networks: prepared.collect::<Result<_>>()?,
            convolutions: Convolutions::Plain,
            compute: compute.clone(),
            parts: AtomicUsize::new(1),
            wanted: Wanted::Logits,
        })
    }

    /// The same networks with attention maps as output: [`Inference::logits`] then gives one map per gate, finest
    /// first, each resampled to the input's size by nearest neighbour, with values in (0, 1).
    ///
    /// # Errors
    /// The networks have no attention gates.
    pub fn with_attention_maps(&self) -> Result<Self> {
        if self.networks.iter().any(|network| network.gates() == 0) {
            return Err(Error::unsupported(
                "the network has no attention gates; train it with network.attention = true",
            ));
        }
        Ok(Self {
            engine: self.engine,
            networks: self.networks.clone(),
            convolutions: Convolutions::Plain,
            compute: self.compute.clone(),
            parts: AtomicUsize::new(self.parts.load(Ordering::Relaxed)),
            wanted: Wanted::Attention,
        })
    }

    /// A single network without its head, and the head. If there are fewer features than structures, summing features
    /// takes less memory than summing logits, and the head commutes with sums. `None` if nothing is gained, for
    /// several networks, and for 8-bit integers.
    pub fn with_features(&self) -> Result<Option<(Self, Head)>> {
        let ([network], Convolutions::Plain) = (self.networks.as_slice(), &self.convolutions)
        else {
            return Ok(None);
        };
        if self.wanted != Wanted::Logits {
            return Ok(None);
        }
        let [structures, features] = self.head_size();
        if features >= structures {
            return Ok(None);
        }
        let Some(tensors) = network.head() else {
            return Ok(None);
        };
        let head = self.head(tensors)?;
        let inference = Self {
            engine: self.engine,
            networks: self.networks.clone(),
            convolutions: Convolutions::Plain,
            compute: self.compute.clone(),
            parts: AtomicUsize::new(self.parts.load(Ordering::Relaxed)),
            wanted: Wanted::Features,
        };
        Ok(Some((inference, head)))
    }

    fn head(&self, tensors: HeadTensors) -> Result<Head> {
        let weights = self.engine.values(tensors.weights)?;
        let [structures, features] = self.head_size();
        let biases = match tensors.biases {
            Some(biases) => self.engine.values(biases)?,
            None => vec![0.0; structures],
        };
        Ok(Head {
            weights: Array2::from_shape_vec((structures, features), weights)
                .map_err(|error| Error::internal(error.to_string()))?,
            biases,
        })
    }

    fn extras(&self) -> Extras {
        Extras {
            features: self.wanted == Wanted::Features,
            ..Extras::default()
        }
    }

    /// Records the input ranges of convolutions from now on.
    ///
    /// # Errors
    /// The device does not support 8-bit integers.
    pub fn recording(mut self) -> Result<Self> {
        if self.compute.choice != DeviceChoice::LibTorchCpu {
            return Err(Error::usage(format!(
                "device {} does not compute in 8-bit integers; use --device libtorch",
                self.compute.choice
            )));
        }
        let ranges = self.networks.iter().map(|_| Mutex::default());
        self.convolutions = Convolutions::Recorded(ranges.collect());
        Ok(self)
    }

    /// The ranges recorded so far, per network.
    pub fn recorded(&self) -> Vec<InputRanges> {
        match &self.convolutions {
            Convolutions::Recorded(ranges) => ranges
                .iter()
                .map(|ranges| {
                    ranges
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clone()
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Computes convolutions in 8-bit integers from now on, with the input `ranges` of each network.
    ///
    /// # Errors
    /// The number of ranges differs from the number of networks, or ranges are empty.
    pub fn with_int8(mut self, ranges: Vec<InputRanges>) -> Result<Self> {
        if ranges.len() != self.networks.len() || ranges.iter().any(|ranges| ranges.0.is_empty()) {
            return Err(Error::usage(
                "--precision int8: the model has no int8 input ranges; run 'ctseg quantize' on it first",
            ));
        }
        self.convolutions = self.engine.with_int8(ranges);
        Ok(self)
    }

    /// Number of networks.
    pub fn len(&self) -> usize {
        self.networks.len()
    }

    /// Whether there are no networks.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Number of output maps of the networks, and of input features of their heads.
    pub fn head_size(&self) -> [usize; 2] {
        self.networks.first().map_or([0, 0], Network::head_size)
    }

    /// Device and precision of the networks.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// The mean logits of all networks, or of the one at index `only`. A batch that does not fit into memory is
    /// halved until it does.
    ///
    /// # Shapes
    /// - `input`: (patch, channel, z, y, x), flattened; sides multiples of the network's
    pub fn logits(&self, input: &[f32], shape: [usize; 5], only: Option<usize>) -> Result<Logits> {
        let which = match only {
            Some(index) => index..index + 1,
            None => 0..self.networks.len(),
        };
        if which.is_empty() || which.end > self.networks.len() {
            return Err(Error::internal("a stage without networks"));
        }
        loop {
            let parts = self.parts.load(Ordering::Relaxed);
            let error = match self.in_parts(&which, input, shape, parts) {
                Ok(logits) => return Ok(logits),
                Err(error) => error,
            };
            if !matches!(error, Error::OutOfMemory(_)) {
                return Err(error);
            }
            self.engine.release_memory()?;
            if parts >= shape[0] {
                return Err(error);
            }
            self.parts.store(parts * 2, Ordering::Relaxed);
        }
    }

    fn in_parts(
        &self,
        which: &Range<usize>,
        input: &[f32],
        shape: [usize; 5],
        parts: usize,
    ) -> Result<Logits> {
        let size = shape[0].div_ceil(parts).max(1);
        if size >= shape[0] {
            return self.at_once(which, input, shape);
        }
        let per_patch: usize = shape[1..].iter().product();
        let mut all = Vec::new();
        let mut out_shape = [0; 5];
        for part in input.chunks(size * per_patch) {
            let part_shape = [
                part.len() / per_patch,
                shape[1],
                shape[2],
                shape[3],
                shape[4],
            ];
            let (logits, part_out) = self.at_once(which, part, part_shape)?;
            all.extend_from_slice(&logits);
            out_shape = part_out;
        }
        out_shape[0] = shape[0];
        Ok((all.into(), out_shape))
    }

    fn at_once(&self, which: &Range<usize>, input: &[f32], shape: [usize; 5]) -> Result<Logits> {
        let networks = &self.networks[which.clone()];
        if self.wanted == Wanted::Attention {
            let maps = networks.iter().map(|network| {
                let maps = self
                    .engine
                    .attention_maps(network, input, shape, &self.compute)?;
                enlarged(&maps, [shape[3], shape[4]])
            });
            let (mean, shape) = mean_of(maps.collect::<Result<_>>()?)?;
            return Ok((mean.into(), shape));
        }
        self.engine.mean_logits(
            networks,
            input,
            shape,
            ConvolutionsFrom {
                all: &self.convolutions,
                first: which.start,
            },
            &self.compute,
            self.extras(),
        )
    }
}
