//! Blocks on shapes only: computes a network's cost without allocating tensors.

use std::cell::RefCell;
use std::collections::HashMap;

use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use super::layers::{Activation, Conv, ConvNormAct, UpConv};
use super::ops::Ops;
use crate::named_parameters::{NamedVisitor, visit_named};
use ctseg_base::{Error, Result};

/// The cost of one operation, per sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerCounts {
    /// Name of the layer in the network (`encoder.0.1`), or of the operation if it has no weights.
    pub name: String,
    /// (channel, space…)
    pub output: Vec<usize>,
    /// Trained parameters.
    pub parameters: u64,
    /// Of the forward pass; borders count like interior voxels.
    pub multiply_adds: u64,
    /// Elements in the type of the activations that training saves for the backward pass.
    pub saved: u64,
    /// Bytes in other types that training saves.
    pub saved_bytes: u64,
}

/// Shape of one sample: (channel, space…).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape(pub Vec<usize>);

impl Shape {
    fn channels(&self) -> usize {
        self.0.first().copied().unwrap_or(0)
    }

    fn elements(&self) -> u64 {
        self.0.iter().map(|side| *side as u64).product()
    }

    fn voxels(&self) -> u64 {
        self.0.iter().skip(1).map(|side| *side as u64).product()
    }

    fn with_space(channels: usize, space: impl Iterator<Item = usize>) -> Self {
        Self(std::iter::once(channels).chain(space).collect())
    }
}

/// Operations on shapes, which record what they would compute.
pub struct ShapeOps {
    names: HashMap<ParamId, String>,
    layers: RefCell<Vec<LayerCounts>>,
}

impl ShapeOps {
    /// For `module` and its submodules; does not initialise weights.
    pub fn of<M: Module>(module: &M) -> Self {
        struct Names(HashMap<ParamId, String>);
        impl NamedVisitor for Names {
            fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
                let layer = name.strip_suffix(".weight").unwrap_or(&name);
                let layer = layer.strip_suffix(".conv").unwrap_or(layer);
                self.0.insert(param.id, layer.to_owned());
            }
        }
        let mut names = Names(HashMap::new());
        visit_named(module, &mut names);
        Self {
            names: names.0,
            layers: RefCell::new(Vec::new()),
        }
    }

    /// The recorded operations, in order of computation.
    pub fn layers(self) -> Vec<LayerCounts> {
        self.layers.into_inner()
    }

    fn record(&self, counted: LayerCounts) {
        self.layers.borrow_mut().push(counted);
    }

    /// Records an operation without weights that saves `saved` elements.
    fn record_op(&self, name: &str, output: &Shape, saved: u64, saved_bytes: u64) {
        self.record(LayerCounts {
            name: name.to_owned(),
            output: output.0.clone(),
            parameters: 0,
            multiply_adds: 0,
            saved,
            saved_bytes,
        });
    }

    fn name(&self, id: &ParamId) -> String {
        self.names.get(id).cloned().unwrap_or_default()
    }

    /// A convolution whose output is saved `saved` times (also after the normalisation).
    fn convolved<const R: usize>(
        &self,
        x: &Shape,
        conv: &Conv<R>,
        norm: bool,
        saved: u64,
    ) -> Result<Shape> {
        let weight = conv.weight.lazy_shape().to_vec();
        let [to, from, kernel @ ..] = weight.as_slice() else {
            return Err(Error::internal("a convolution without channels"));
        };
        if *from != x.channels() {
            return Err(Error::internal(format!(
                "{} expects {from} channels, found {}",
                self.name(&conv.weight.id),
                x.channels()
            )));
        }
        let space = x.0[1..].iter().enumerate().map(|(axis, side)| {
            let padded = side + 2 * conv.padding[axis];
            padded.saturating_sub(kernel[axis]) / conv.stride[axis] + 1
        });
        let output = Shape::with_space(*to, space);
        let weights = weight.iter().map(|side| *side as u64).product::<u64>();
        let biases = u64::from(conv.bias.is_some()) + 2 * u64::from(norm);
        self.record(LayerCounts {
            name: self.name(&conv.weight.id),
            parameters: weights + biases * *to as u64,
            multiply_adds: weights * output.voxels(),
            saved: saved * output.elements(),
            saved_bytes: 0,
            output: output.0.clone(),
        });
        Ok(output)
    }

    fn pooled(x: &Shape, factors: &[usize]) -> Shape {
        let space = x.0[1..]
            .iter()
            .zip(factors)
            .map(|(side, factor)| side / factor);
        Shape::with_space(x.channels(), space)
    }
}

impl<const R: usize> Ops<R> for ShapeOps {
    type Tensor = Shape;

    fn block(&self, mut x: Shape, layers: &[ConvNormAct<R>]) -> Result<Shape> {
        for layer in layers {
            let norm = layer.norm.is_some();
            // The normalisation needs its input, the next layer its output.
            x = self.convolved(&x, &layer.conv, norm, 1 + u64::from(norm))?;
        }
        Ok(x)
    }

    fn conv(&self, x: Shape, conv: &Conv<R>) -> Result<Shape> {
        self.convolved(&x, conv, false, 1)
    }

    fn max_pool(&self, x: Shape, factors: &[usize]) -> Result<Shape> {
        let output = Self::pooled(&x, factors);
        // Saves the values and the indices of the maxima.
        self.record_op(
            "max_pool",
            &output,
            output.elements(),
            8 * output.elements(),
        );
        Ok(output)
    }

    fn mean_pool(&self, x: Shape, factors: &[usize]) -> Result<Shape> {
        let output = Self::pooled(&x, factors);
        self.record_op("mean_pool", &output, output.elements(), 0);
        Ok(output)
    }

    fn up(&self, x: Shape, up: &UpConv<R>) -> Result<Shape> {
        let weight = up.weight.lazy_shape().to_vec();
        let channels = weight.get(1).copied().unwrap_or(0);
        let space = x.0[1..]
            .iter()
            .zip(&up.factors)
            .map(|(side, factor)| side * factor);
        let output = Shape::with_space(channels, space);
        let weights = weight.iter().map(|side| *side as u64).product::<u64>();
        self.record(LayerCounts {
            name: self.name(&up.weight.id),
            parameters: weights + channels as u64,
            multiply_adds: weights * x.voxels(),
            // It is copied into the concatenation.
            saved: 0,
            saved_bytes: 0,
            output: output.0.clone(),
        });
        Ok(output)
    }

    fn join(&self, skip: Shape, x: Shape) -> Result<Shape> {
        if skip.0[1..] != x.0[1..] {
            return Err(Error::internal(format!(
                "a skip of {:?} does not match {:?}",
                skip.0, x.0
            )));
        }
        let channels = skip.channels() + x.channels();
        let output = Shape::with_space(channels, x.0[1..].iter().copied());
        self.record_op("join", &output, output.elements(), 0);
        Ok(output)
    }

    fn add(&self, a: Shape, b: Shape, _: Activation) -> Result<Shape> {
        if a != b {
            return Err(Error::internal(format!(
                "{:?} and {:?} cannot be added",
                a.0, b.0
            )));
        }
        self.record_op("add", &a, a.elements(), 0);
        Ok(a)
    }

    fn sigmoid(&self, x: Shape) -> Result<Shape> {
        self.record_op("sigmoid", &x, x.elements(), 0);
        Ok(x)
    }

    fn multiply(&self, x: Shape, map: Shape) -> Result<Shape> {
        if x.0[1..] != map.0[1..] {
            return Err(Error::internal(format!(
                "{:?} cannot be multiplied with {:?}",
                x.0, map.0
            )));
        }
        // The factors are already saved; the product is copied into the concatenation.
        self.record_op("multiply", &x, 0, 0);
        Ok(x)
    }

    fn dropout(&self, x: Shape, probability: f64) -> Result<Shape> {
        if probability > 0.0 {
            self.record_op("dropout", &x, x.elements(), x.elements());
        }
        Ok(x)
    }
}
