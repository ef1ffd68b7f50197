//! HTML reports of training runs and evaluations, and pictures.

#![deny(unsafe_code)] // not forbid: ndarray's `s!` contains an `allow`

pub mod calibration_diagram;
pub mod curves;
pub mod data;
pub mod html;
pub mod pictures;
