//! libtorch's blocks against Burn's on flex: values and all gradients, f32.
//! Over 400 lines: one comparison, with the helpers that all its cases need.

use burn::module::{Module, Param};
use burn::tensor::{Device, Gradients, Tensor as BurnTensor, TensorData};
use tch::{Kind, Tensor};

use super::ffi::{self, Mode};
use super::module::{for_training, tensors_of, wrapped};
use super::ops::{SharedTensor, TorchOps, channels_last, native};
use super::transfer::{to_device, to_host};
use crate::blocks::burn_ops::BurnOps;
use crate::blocks::{Activation, Conv, ConvNormAct, Norm, NormKind, Ops, UpConv};
use crate::named_parameters::{NamedMapper, NamedVisitor, map_named, visit_named};
use crate::networks::{Downsampling, Network, NetworkConfig, UnetConfig};
use crate::weights::{NamedTensors, network_tensors, with_tensors};
use ctseg_base::Result;

/// Largest difference, relative to the largest value.
const TOLERANCE: f32 = 1e-4;

pub(super) fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(1e-6f32, |a, v| a.max(v.abs()));
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!(
            (a - b).abs() <= TOLERANCE * largest,
            "{what}[{index}]: libtorch {a}, flex {b}, largest {largest}"
        );
    }
}

/// Values around zero that never tie in a pooling window.
pub(super) fn wave(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (i as f32 * 0.7391).sin() + 0.3 * (i as f32 * 0.0137).cos())
        .collect()
}

/// A computation with one input and its parameters, on any engine.
trait Piece<const R: usize> {
    fn compute<O: Ops<R>>(&self, ops: &O, x: O::Tensor) -> Result<O::Tensor>;
}

impl<const R: usize> Piece<R> for Vec<ConvNormAct<R>> {
    fn compute<O: Ops<R>>(&self, ops: &O, x: O::Tensor) -> Result<O::Tensor> {
        ops.block(x, self)
    }
}

impl<const R: usize> Piece<R> for Conv<R> {
    fn compute<O: Ops<R>>(&self, ops: &O, x: O::Tensor) -> Result<O::Tensor> {
        ops.conv(x, self)
    }
}

impl<const R: usize> Piece<R> for UpConv<R> {
    fn compute<O: Ops<R>>(&self, ops: &O, x: O::Tensor) -> Result<O::Tensor> {
        ops.up(x, self)
    }
}

/// Both kinds of pooling, concatenated; no parameters.
#[derive(Module, Debug)]
struct PoolAndJoin;

impl<const R: usize> Piece<R> for PoolAndJoin {
    fn compute<O: Ops<R>>(&self, ops: &O, x: O::Tensor) -> Result<O::Tensor> {
        let pooled = ops.max_pool(x.clone(), &vec![2; R - 2])?;
        let means = ops.mean_pool(x, &vec![2; R - 2])?;
        ops.join(pooled, means)
    }
}

/// Values or gradients by name.
struct Read<'a> {
    gradients: Option<&'a Gradients>,
    found: NamedTensors,
}

impl NamedVisitor for Read<'_> {
    fn visit<const D: usize>(&mut self, name: String, param: &Param<BurnTensor<D>>) {
        let value = param.val();
        let tensor = match self.gradients {
            Some(gradients) => match value.grad(gradients) {
                Some(gradient) => gradient,
                None => return,
            },
            None => value.inner(),
        };
        let host = crate::weights::HostTensor {
            shape: tensor.dims().to_vec(),
            values: tensor.into_data().try_into_vec::<f32>().unwrap(),
        };
        self.found.insert(name, host);
    }
}

fn read<M: Module>(module: &M, gradients: Option<&Gradients>) -> NamedTensors {
    let mut read = Read {
        gradients,
        found: NamedTensors::new(),
    };
    visit_named(module, &mut read);
    read.found
}

/// Replaces the module's parameters by libtorch tensors with gradients enabled.
fn on_libtorch<M: Module>(module: M, values: &NamedTensors) -> (M, Vec<(String, Tensor)>) {
    struct Load<'a> {
        values: &'a NamedTensors,
        parameters: Vec<(String, Tensor)>,
    }
    impl NamedMapper for Load<'_> {
        fn map<const D: usize>(
            &mut self,
            name: String,
            param: Param<BurnTensor<D>>,
        ) -> Param<BurnTensor<D>> {
            let host = &self.values[&name];
            let tensor = to_device(&host.values, &host.shape, tch::Device::Cpu).unwrap();
            let tensor = channels_last(&tensor, Kind::Float).unwrap().copy();
            let tensor = tensor.set_requires_grad(!name.contains("running_"));
            self.parameters.push((name, tensor.shallow_clone()));
            let (id, _, mapper) = param.consume();
            Param::from_mapped_value(id, wrapped(tensor), mapper)
        }
    }
    let mut load = Load {
        values,
        parameters: Vec::new(),
    };
    let module = map_named(module, &mut load);
    (module, load.parameters)
}

/// Compares values and gradients of the module from `make` on both engines, for an input of `shape`.
fn assert_alike<const R: usize, P: Piece<R> + Module>(
    what: &str,
    make: impl Fn(&Device) -> P,
    shape: [usize; R],
    recompute: bool,
) {
    let flex = Device::flex().autodiff();
    flex.seed(7);
    let piece = make(&flex);
    let values = read(&piece, None);
    let input = wave(shape.iter().product());
    let x = BurnTensor::<R>::from_data(TensorData::new(input.clone(), shape), &flex).require_grad();
    let y = piece.compute(&BurnOps, x.clone()).unwrap();
    let out_shape = y.dims();
    let output_gradient = wave(out_shape.iter().product::<usize>() + 5)[5..].to_vec();
    let weights =
        BurnTensor::<R>::from_data(TensorData::new(output_gradient.clone(), out_shape), &flex);
    let expected = y.clone().into_data().try_into_vec::<f32>().unwrap();
    let gradients = (y * weights).sum().backward();
    let expected_input = x.grad(&gradients).unwrap().into_data();
    let expected_gradients = read(&piece, Some(&gradients));

    #[allow(deprecated)]
    let (piece, parameters) = on_libtorch(make(&Device::libtorch()), &values);
    let ops = TorchOps {
        mode: Mode::Training,
        recompute,
    };
    let x = to_device(&input, &shape, tch::Device::Cpu).unwrap();
    let x = channels_last(&x, Kind::Float).unwrap().copy();
    let x = x.set_requires_grad(true);
    let y = piece
        .compute(&ops, SharedTensor(x.shallow_clone()))
        .unwrap()
        .0;
    assert_close(&format!("{what}: values"), &to_host(&y).unwrap(), &expected);
    let output_gradient = to_device(&output_gradient, &out_shape, tch::Device::Cpu).unwrap();
    ffi::backward(&[y.shallow_clone()], &[output_gradient]).unwrap();
    assert_close(
        &format!("{what}: gradient by the input"),
        &to_host(&x.grad()).unwrap(),
        &expected_input.try_into_vec::<f32>().unwrap(),
    );
    let mut compared = 0;
    for (name, parameter) in parameters {
        if let Some(expected) = expected_gradients.get(&name) {
            let gradient = to_host(&parameter.grad()).unwrap();
            assert_close(
                &format!("{what}: gradient by {name}"),
                &gradient,
                &expected.values,
            );
            compared += 1;
        }
    }
    assert_eq!(compared, expected_gradients.len(), "{what}");
}

fn layers<const R: usize>(
    norm: NormKind,
    activation: Activation,
    stride: usize,
    device: &Device,
) -> Vec<ConvNormAct<R>> {
    let (kernel, one) = (vec![3; R - 2], vec![1; R - 2]);
    let layer = |from, to, stride: &[usize]| ConvNormAct {
        conv: Conv::new([from, to], &kernel, stride, None, device),
        norm: Some(Norm::new(norm, 2, to, device)),
        activation: Some(activation),
    };
    let without_norm = ConvNormAct {
        conv: Conv::new([20, 5], &kernel, &one, Some(0.1), device),
        norm: None,
        activation: Some(activation),
    };
    vec![
        layer(3, 6, &vec![stride; R - 2]),
        layer(6, 20, &one),
        without_norm,
    ]
}

#[test]
fn blocks_in_two_dimensions_equal_burns() {
    for norm in [NormKind::Batch, NormKind::Instance, NormKind::Group] {
        for activation in [Activation::Relu, Activation::LeakyRelu] {
            for (stride, recompute) in [(1, false), (2, false), (1, true)] {
                let what = format!("2D {norm:?} {activation:?} stride {stride} {recompute}");
                let make = |device: &Device| layers::<4>(norm, activation, stride, device);
                assert_alike(&what, make, [2, 3, 12, 10], recompute);
            }
        }
    }
}

#[test]
fn blocks_in_three_dimensions_equal_burns() {
    for norm in [NormKind::Batch, NormKind::Instance, NormKind::Group] {
        for (stride, recompute) in [(1, false), (2, false), (1, true)] {
            let what = format!("3D {norm:?} stride {stride} {recompute}");
            let make = |device: &Device| layers::<5>(norm, Activation::LeakyRelu, stride, device);
            assert_alike(&what, make, [2, 3, 6, 8, 4], recompute);
        }
    }
}

#[test]
fn heads_ups_and_pools_equal_burns() {
    let head = |device: &Device| Conv::<4>::new([3, 5], &[1, 1], &[1, 1], Some(-3.0), device);
    assert_alike("2D head", head, [2, 3, 8, 8], false);
    let head = |device: &Device| Conv::<5>::new([3, 5], &[1, 1, 1], &[1, 1, 1], Some(-3.0), device);
    assert_alike("3D head", head, [2, 3, 4, 4, 8], false);
    let up = |device: &Device| UpConv::<4>::new([6, 4], &[2, 2], device);
    assert_alike("2D up", up, [2, 6, 5, 7], false);
    let up = |device: &Device| UpConv::<5>::new([6, 4], &[1, 2, 2], device);
    assert_alike("3D up", up, [2, 6, 3, 5, 4], false);
    assert_alike::<4, _>("2D pool", |_| PoolAndJoin, [2, 3, 8, 6], false);
    assert_alike::<5, _>("3D pool", |_| PoolAndJoin, [2, 3, 4, 8, 6], false);
}

/// Small networks of all kinds.
fn networks() -> Vec<(NetworkConfig, [usize; 5])> {
    let config = |norm, downsampling| UnetConfig {
        widths: vec![4, 8, 16],
        norm: Some(norm),
        downsampling: Some(downsampling),
        ..UnetConfig::default()
    };
    let (flat, deep) = ([2, 2, 1, 16, 24], [1, 2, 8, 16, 8]);
    vec![
        (
            NetworkConfig::Unet2d(config(NormKind::Batch, Downsampling::Pool)),
            flat,
        ),
        (
            NetworkConfig::Unet2d(config(NormKind::Instance, Downsampling::Stride)),
            flat,
        ),
        (
            NetworkConfig::Unet25d(UnetConfig {
                neighbours: Some(1),
                ..config(NormKind::Batch, Downsampling::Pool)
            }),
            [2, 2, 3, 16, 24],
        ),
        (
            NetworkConfig::Unet3d(config(NormKind::Instance, Downsampling::Stride)),
            deep,
        ),
        (
            NetworkConfig::Unet3d(config(NormKind::Batch, Downsampling::Pool)),
            deep,
        ),
    ]
}

fn fresh(config: &NetworkConfig, device: &Device) -> Network {
    device.seed(11);
    let network = config.init(2, 3, device).unwrap();
    network_tensors(&network).unwrap();
    network
}

#[test]
fn whole_networks_equal_burns() {
    for (config, shape) in networks() {
        let what = config.name();
        let flex = Device::flex().autodiff();
        let network = fresh(&config, &flex);
        let values = network_tensors(&network).unwrap();
        let input = wave(shape.iter().product());
        let x = BurnTensor::<5>::from_data(TensorData::new(input.clone(), shape), &flex);
        let y = network.forward(x).unwrap();
        let out_shape = y.dims();
        let output_gradient = wave(out_shape.iter().product());
        let weights =
            BurnTensor::<5>::from_data(TensorData::new(output_gradient.clone(), out_shape), &flex);
        let expected = y.clone().into_data().try_into_vec::<f32>().unwrap();
        let gradients = read(&network, Some(&(y * weights).sum().backward()));
        let statistics = network_tensors(&network).unwrap();

        #[allow(deprecated)]
        let device = Device::libtorch();
        let network = with_tensors(fresh(&config, &device), &values, &device).unwrap();
        let network = for_training(network, 0).unwrap();
        let ops = TorchOps {
            mode: Mode::Training,
            recompute: false,
        };
        let x = to_device(&input, &shape, tch::Device::Cpu).unwrap();
        let y = super::module::outputs(
            &network,
            &ops,
            &x,
            Kind::Float,
            crate::networks::Extras::default(),
        );
        let y = y.unwrap().logits.swap_remove(0);
        assert_close(what, &to_host(&y).unwrap(), &expected);
        let output_gradient = to_device(&output_gradient, &out_shape, tch::Device::Cpu).unwrap();
        ffi::backward(&[y.shallow_clone()], &[output_gradient]).unwrap();
        let mut parameters = tensors_of(&network).unwrap();
        parameters.retain(|(_, parameter)| parameter.requires_grad());
        assert_eq!(parameters.len(), gradients.len());
        for (name, parameter) in &parameters {
            let gradient = to_host(&parameter.grad()).unwrap();
            assert_close(
                &format!("{what} {name}"),
                &gradient,
                &gradients[name].values,
            );
        }
        // Running statistics were updated with the same batch.
        let _no_grad = tch::no_grad_guard();
        for (name, tensor) in network_tensors(&network).unwrap() {
            if name.contains("running_") {
                assert_close(&name, &tensor.values, &statistics[&name].values);
            }
        }
    }
}

#[test]
fn bf16_blocks_are_close_to_f32() {
    #[allow(deprecated)]
    let device = Device::libtorch();
    for norm in [NormKind::Batch, NormKind::Instance, NormKind::Group] {
        device.seed(5);
        let piece = layers::<4>(norm, Activation::LeakyRelu, 1, &device);
        let values = read(&piece, None);
        let shape = [2, 3, 24, 20];
        let x = to_device(&wave(shape.iter().product()), &shape, tch::Device::Cpu).unwrap();
        let run = |kind| {
            let (piece, parameters) = on_libtorch(piece.clone(), &values);
            let ops = TorchOps {
                mode: Mode::BatchStatistics,
                recompute: false,
            };
            let x = SharedTensor(channels_last(&x, kind).unwrap());
            let y = piece.compute(&ops, x).unwrap().0;
            assert_eq!(y.kind(), kind);
            let output_gradient =
                to_device(&wave(y.numel()), &[y.numel()], tch::Device::Cpu).unwrap();
            let output_gradient = output_gradient.reshape(y.size()).to_kind(kind);
            ffi::backward(&[y.shallow_clone()], &[output_gradient]).unwrap();
            let trained = parameters.iter().filter(|(_, p)| p.requires_grad());
            let gradients: Vec<f32> = trained
                .flat_map(|(_, parameter)| to_host(&parameter.grad()).unwrap())
                .collect();
            (to_host(&y.detach()).unwrap(), gradients)
        };
        let (exact, exact_gradients) = run(Kind::Float);
        let (rough, rough_gradients) = run(Kind::BFloat16);
        let distance = |a: &[f32], b: &[f32]| {
            let difference: f32 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
            (difference / b.iter().map(|v| v * v).sum::<f32>()).sqrt()
        };
        let values = distance(&rough, &exact);
        let gradients = distance(&rough_gradients, &exact_gradients);
        assert!(values < 0.02 && values > 0.0, "{norm:?}: values {values}");
        assert!(
            gradients < 0.05 && gradients > 0.0,
            "{norm:?}: gradients {gradients}"
        );
    }
}

#[test]
fn weights_stay_with_burns_modules() {
    #[allow(deprecated)]
    let device = Device::libtorch();
    let (config, _) = &networks()[0];
    let network = for_training(fresh(config, &device), 0).unwrap();
    let (_, parameter) = &tensors_of(&network).unwrap()[0];
    tch::no_grad(|| {
        let mut parameter = parameter.shallow_clone();
        let _ = parameter.fill_(0.25);
    });
    let _no_grad = tch::no_grad_guard();
    let tensors = network_tensors(&network).unwrap();
    assert!(
        tensors["encoder.0.0.conv.weight"]
            .values
            .iter()
            .all(|v| *v == 0.25)
    );
    let again = native(wrapped::<4>(parameter.shallow_clone())).unwrap();
    assert_eq!(again.data_ptr(), parameter.data_ptr());
}
