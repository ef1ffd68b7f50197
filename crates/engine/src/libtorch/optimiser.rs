//! Optimisers with libtorch's fused steps, in place (`shim/optimiser.cpp`), and their state.

use std::ffi::{c_char, c_double, c_int};

use tch::Tensor;
use torch_sys::C_tensor;

use super::ffi::{checked, equal_lists, pointers};
use super::formula_step::formula_step;
use super::ops::torch_error;
use crate::optim::{ALPHA, OptimiserConfig, OptimiserKind};
use crate::weights::NamedTensors;
use ctseg_base::{Error, Result};

unsafe extern "C" {
    fn ctseg_gradient_norm(
        parameters: *const *const C_tensor,
        count: c_int,
        norm: *mut c_double,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_adam(
        parameters: *const *const C_tensor,
        first: *const *const C_tensor,
        second: *const *const C_tensor,
        count: c_int,
        divide_by: c_double,
        step: c_double,
        rate: c_double,
        beta1: c_double,
        beta2: c_double,
        epsilon: c_double,
        weight_decay: c_double,
        decoupled: c_int,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_sgd(
        parameters: *const *const C_tensor,
        velocity: *const *const C_tensor,
        count: c_int,
        divide_by: c_double,
        first_step: c_int,
        rate: c_double,
        momentum: c_double,
        weight_decay: c_double,
        nesterov: c_int,
        error: *mut *mut c_char,
    ) -> c_int;
    fn ctseg_rmsprop(
        parameters: *const *const C_tensor,
        square: *const *const C_tensor,
        count: c_int,
        divide_by: c_double,
        rate: c_double,
        alpha: c_double,
        epsilon: c_double,
        weight_decay: c_double,
        error: *mut *mut c_char,
    ) -> c_int;
}

/// Euclidean norm of the gradients of all `parameters`.
pub(super) fn gradient_norm(parameters: &[Tensor]) -> Result<f64> {
    let all = pointers(parameters);
    let (mut norm, mut error) = (0.0, std::ptr::null_mut());
    // SAFETY: the tensors outlive the call.
    let status = unsafe {
        ctseg_gradient_norm(
            all.as_ptr(),
            all.len() as c_int,
            &raw mut norm,
            &raw mut error,
        )
    };
    checked(status, error)?;
    Ok(norm)
}

/// Parameters of one Adam step (`decoupled`: AdamW).
struct AdamStep {
    divide_by: f64,
    step: f64,
    rate: f64,
    betas: [f64; 2],
    epsilon: f64,
    weight_decay: f64,
    decoupled: bool,
}

fn adam(parameters: &[Tensor], first: &[Tensor], second: &[Tensor], step: &AdamStep) -> Result<()> {
    let ([all, m, v], count) = equal_lists([parameters, first, second])?;
    let mut error = std::ptr::null_mut();
    // SAFETY: the tensors outlive the call, and the three lists have equal lengths.
    let status = unsafe {
        ctseg_adam(
            all.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            count,
            step.divide_by,
            step.step,
            step.rate,
            step.betas[0],
            step.betas[1],
            step.epsilon,
            step.weight_decay,
            c_int::from(step.decoupled),
            &raw mut error,
        )
    };
    checked(status, error)
}

/// Parameters of one SGD step.
struct SgdStep {
    divide_by: f64,
    first_step: bool,
    rate: f64,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
}

fn sgd(parameters: &[Tensor], velocity: &[Tensor], step: &SgdStep) -> Result<()> {
    let ([all, buffers], count) = equal_lists([parameters, velocity])?;
    let mut error = std::ptr::null_mut();
    // SAFETY: see `adam`.
    let status = unsafe {
        ctseg_sgd(
            all.as_ptr(),
            buffers.as_ptr(),
            count,
            step.divide_by,
            c_int::from(step.first_step),
            step.rate,
            step.momentum,
            step.weight_decay,
            c_int::from(step.nesterov),
            &raw mut error,
        )
    };
    checked(status, error)
}

/// Parameters of one RMSProp step.
struct RmsPropStep {
    divide_by: f64,
    rate: f64,
    alpha: f64,
    epsilon: f64,
    weight_decay: f64,
}

fn rmsprop(parameters: &[Tensor], square: &[Tensor], step: &RmsPropStep) -> Result<()> {
    let ([all, squares], count) = equal_lists([parameters, square])?;
    let mut error = std::ptr::null_mut();
    // SAFETY: see `adam`.
    let status = unsafe {
        ctseg_rmsprop(
            all.as_ptr(),
            squares.as_ptr(),
            count,
            step.divide_by,
            step.rate,
            step.alpha,
            step.epsilon,
            step.weight_decay,
            &raw mut error,
        )
    };
    checked(status, error)
}

/// Takes one step of the optimiser after `steps` others, with the gradients in the parameters divided by `divide_by`;
/// `state` is from [`optimiser_state`].
pub(super) fn fused_step(
    config: &OptimiserConfig,
    state: &[Vec<Tensor>],
    parameters: &[Tensor],
    steps: u64,
    divide_by: f64,
    rate: f64,
) -> Result<()> {
    match (config.kind, state) {
        (OptimiserKind::Adam | OptimiserKind::AdamW, [first, second]) => adam(
            parameters,
            first,
            second,
            &AdamStep {
                divide_by,
                step: (steps + 1) as f64,
                rate,
                betas: config.betas,
                epsilon: config.eps,
                weight_decay: config.weight_decay,
                decoupled: config.kind == OptimiserKind::AdamW,
            },
        ),
        (OptimiserKind::Sgd, [velocity]) => sgd(
            parameters,
            velocity,
            &SgdStep {
                divide_by,
                first_step: steps == 0,
                rate,
                momentum: config.momentum,
                weight_decay: config.weight_decay,
                nesterov: config.nesterov,
            },
        ),
        (OptimiserKind::RmsProp, [square]) => rmsprop(
            parameters,
            square,
            &RmsPropStep {
                divide_by,
                rate,
                alpha: ALPHA,
                epsilon: config.eps,
                weight_decay: config.weight_decay,
            },
        ),
        _ => formula_step(config, state, parameters, steps, divide_by, rate),
    }
}

/// The state of an optimiser of `kind`: per slot, one tensor per parameter in the same layout. Zero if not in
/// `state`.
pub(super) fn optimiser_state(
    kind: OptimiserKind,
    parameters: &[(String, Tensor)],
    state: &NamedTensors,
) -> Result<Vec<Vec<Tensor>>> {
    let slots = kind.slots().iter();
    slots.map(|slot| slot_of(slot, parameters, state)).collect()
}

/// One slot of [`optimiser_state`].
fn slot_of(
    slot: &str,
    parameters: &[(String, Tensor)],
    state: &NamedTensors,
) -> Result<Vec<Tensor>> {
    parameters
        .iter()
        .map(|(name, parameter)| {
            let _no_grad = tch::no_grad_guard();
            let mut tensor = parameter.f_zeros_like().map_err(torch_error)?;
            if let Some(host) = state.get(&format!("{slot}{name}")) {
                if host.values.len() != tensor.numel() {
                    return Err(Error::invalid(format!(
                        "the optimiser's state of {name} has {} values, expected {}",
                        host.values.len(),
                        tensor.numel()
                    )));
                }
                let values = Tensor::from_slice(&host.values)
                    .f_reshape(parameter.size())
                    .map_err(torch_error)?;
                tensor.f_copy_(&values).map_err(torch_error)?;
            }
            Ok(tensor)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::libtorch::transfer::to_host;

    /// One golden file of `scripts/golden/make_optimisers.py`.
    fn golden(name: &str) -> serde_json::Value {
        let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .join(format!("tests/golden/optimisers/{name}.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn floats(value: &serde_json::Value) -> Vec<f32> {
        let values = value.as_array().unwrap().iter();
        values.map(|v| v.as_f64().unwrap() as f32).collect()
    }

    fn leaves(described: &[serde_json::Value]) -> Vec<Tensor> {
        let leaf = |p: &serde_json::Value| {
            let shape: Vec<i64> = serde_json::from_value(p["shape"].clone()).unwrap();
            Tensor::from_slice(&floats(&p["initial"]))
                .reshape(shape)
                .set_requires_grad(true)
        };
        described.iter().map(leaf).collect()
    }

    fn set_gradient(parameter: &Tensor, gradient: &[f32]) {
        parameter.shallow_clone().zero_grad();
        let gradient = Tensor::from_slice(gradient).reshape(parameter.size());
        (parameter * gradient).sum(Kind::Float).backward();
    }

    /// Step `index` of a golden file's optimiser, with its settings.
    fn take_step(
        (name, golden): (&str, &serde_json::Value),
        parameters: &[Tensor],
        [first, second]: &[Vec<Tensor>; 2],
        (index, divide_by, rate): (usize, f64, f64),
    ) {
        let number = |key: &str| golden[key].as_f64().unwrap_or(0.0);
        let weight_decay = number("weight_decay");
        match name {
            "adam" | "adamw" | "adamw_betas" => {
                let step = AdamStep {
                    divide_by,
                    step: (index + 1) as f64,
                    rate,
                    betas: serde_json::from_value(golden["betas"].clone()).unwrap(),
                    epsilon: number("eps"),
                    weight_decay,
                    decoupled: name != "adam",
                };
                adam(parameters, first, second, &step)
            }
            "rmsprop" => {
                let step = RmsPropStep {
                    divide_by,
                    rate,
                    alpha: number("alpha"),
                    epsilon: number("eps"),
                    weight_decay,
                };
                rmsprop(parameters, first, &step)
            }
            _ => {
                let step = SgdStep {
                    divide_by,
                    first_step: index == 0,
                    rate,
                    momentum: number("momentum"),
                    weight_decay,
                    nesterov: golden["nesterov"].as_bool().unwrap(),
                };
                sgd(parameters, first, &step)
            }
        }
        .unwrap();
    }

    #[test]
    fn fused_steps_equal_pytorchs() {
        for name in [
            "adam",
            "adamw",
            "adamw_betas",
            "sgd_nesterov",
            "sgd_momentum",
            "sgd_weight_decay",
            "rmsprop",
        ] {
            let golden = golden(name);
            let clip_norm = golden["clip_norm"].as_f64().unwrap_or(0.0);
            let described = golden["parameters"].as_array().unwrap();
            let names = || described.iter().map(|p| p["name"].as_str().unwrap());
            let parameters = leaves(described);
            let zeros =
                || -> Vec<Tensor> { parameters.iter().map(|p| p.detach().zeros_like()).collect() };
            let state = [zeros(), zeros()];
            for (index, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
                for (parameter, key) in parameters.iter().zip(names()) {
                    set_gradient(parameter, &floats(&step["gradients"][key]));
                }
                let norm = gradient_norm(&parameters).unwrap();
                let expected = step["gradient_norm"].as_f64().unwrap();
                assert!(
                    (norm / expected - 1.0).abs() < 1e-5,
                    "{name}: {norm} {expected}"
                );
                let divide_by = 1.0 / (clip_norm / (norm + 1e-6)).min(1.0);
                let rate = step["learning_rate"].as_f64().unwrap();
                take_step(
                    (name, &golden),
                    &parameters,
                    &state,
                    (index, divide_by, rate),
                );
                for (parameter, key) in parameters.iter().zip(names()) {
                    let values = to_host(&parameter.detach()).unwrap();
                    for (value, wanted) in values.iter().zip(floats(&step["parameters"][key])) {
                        assert!(
                            (value - wanted).abs() < 3e-6,
                            "{name} {key}: {value} {wanted}"
                        );
                    }
                }
            }
        }
    }
}
