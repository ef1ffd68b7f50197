//! libtorch's losses and gradients against Burn's formulas on flex and against the references.

use burn::tensor::{Device, Tensor as BurnTensor, TensorData};
use tch::Kind;

use super::ffi;
use super::losses::loss_and_gradient;
use super::ops::channels_last;
use super::tests::{assert_close, wave};
use super::transfer::{to_device, to_host};
use crate::distributed::process_group::ProcessGroup;
use crate::losses::golden;
use crate::losses::golden::Input;
use crate::losses::{DiceSettings, Loss, LossConfig, NoSettings, SumSettings};

/// Burn's formula, with its autodiff down to the logits.
fn by_burn(loss: &Loss, logits: &[f32], targets: &[f32], shape: [usize; 5]) -> (f64, Vec<f32>) {
    let device = Device::flex().autodiff();
    let tensor = |values: &[f32]| {
        BurnTensor::<5>::from_data(TensorData::new(values.to_vec(), shape), &device)
    };
    let leaf = tensor(logits).require_grad();
    let loss = loss.compute(leaf.clone(), tensor(targets), None);
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let gradient = leaf.grad(&(loss * 3.0).backward()).unwrap();
    (value, gradient.into_data().try_into_vec::<f32>().unwrap())
}

#[test]
fn losses_equal_burns_formulas() {
    let shape = [2, 3, 1, 70, 31]; // sides that fill no lanes
    let count: usize = shape.iter().product();
    let logits: Vec<f32> = wave(count).iter().map(|v| v * 8.0).collect();
    let targets: Vec<f32> = wave(count + 3)[3..]
        .iter()
        .map(|v| f32::from(u8::from(*v > 0.4)))
        .collect();
    let x = to_device(&logits, &shape, tch::Device::Cpu).unwrap();
    let t = to_device(&targets, &shape, tch::Device::Cpu).unwrap();
    for (config, shares) in [
        (LossConfig::Bce(NoSettings {}), [1.0, 0.0]),
        (LossConfig::Dice(DiceSettings::default()), [0.0, 1.0]),
        (LossConfig::BceDice(SumSettings::default()), [1.0, 1.0]),
    ] {
        let loss = Loss::from(config);
        let (expected, by_burn) = by_burn(&loss, &logits, &targets, shape);
        let fused = loss_and_gradient(&loss, &x, &t, None, 3.0, &ProcessGroup::single()).unwrap();
        let composite = ffi::bce_dice(&x, &t, shares, 3.0, false, &ProcessGroup::single()).unwrap();
        for (value, gradient) in [fused, composite] {
            assert!(
                (value - expected).abs() < 2e-6,
                "{loss:?}: {value} {expected}"
            );
            assert_close(&loss.name(), &to_host(&gradient).unwrap(), &by_burn);
        }
    }
    // Extreme logits, for which the plain formula overflows.
    let x = x.f_mul_scalar(1e4).unwrap();
    let (value, gradient) =
        loss_and_gradient(&Loss::default(), &x, &t, None, 1.0, &ProcessGroup::single()).unwrap();
    let finite = to_host(&gradient).unwrap().iter().all(|v| v.is_finite());
    assert!(value.is_finite() && finite);
}

/// Any loss, with the fused kernel if available.
fn by_libtorch(loss: &Loss, input: &Input) -> (f64, Vec<f32>) {
    let tensor = |values: &[f32]| to_device(values, &input.shape, tch::Device::Cpu).unwrap();
    let logits = tensor(&input.logits).set_requires_grad(true);
    // In the layout of the last layer's output.
    let logits = channels_last(&logits, Kind::Float).unwrap();
    let distances = loss.needs_distances().then(|| tensor(&input.distances));
    let targets = tensor(&input.targets);
    let (value, gradient) = loss_and_gradient(
        loss,
        &logits,
        &targets,
        distances.as_ref(),
        2.0,
        &ProcessGroup::single(),
    )
    .unwrap();
    let halved = to_host(&gradient)
        .unwrap()
        .iter()
        .map(|g| g / 2.0)
        .collect();
    (value, halved)
}

#[test]
fn losses_and_gradients_equal_the_references() {
    golden::equal_the_references(&by_libtorch);
}

#[test]
fn where_nothing_is_known_nothing_costs() {
    golden::nothing_known_costs_nothing(&by_libtorch);
}

#[test]
fn ignored_voxels_may_hold_anything() {
    golden::ignored_logits_do_not_matter(&by_libtorch);
}

#[test]
fn huge_logits_have_finite_losses() {
    golden::huge_logits_stay_finite(&by_libtorch);
}
