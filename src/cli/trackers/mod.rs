//! The trackers of trainings, besides the run folder. To add one: a file here with a type that implements `Tracker` and
//! a function that opens it, and its line in `registry`.

mod context;
mod registry;

pub(crate) use context::TrackerContext;
pub(crate) use registry::open_trackers;
