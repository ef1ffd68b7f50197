//! Reports of trainings and evaluations: an HTML page and pictures.

pub mod calibration_diagram;
pub mod curves;
pub mod data;
pub mod html;
pub mod pictures;
