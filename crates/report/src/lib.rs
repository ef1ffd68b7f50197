//! Reports of trainings and evaluations: an HTML page and pictures.

#![deny(unsafe_code)] // not forbid: ndarray's `s!` allows it for itself

pub mod calibration_diagram;
pub mod curves;
pub mod data;
pub mod html;
pub mod pictures;
