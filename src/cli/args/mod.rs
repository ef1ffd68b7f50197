//! Flags that several commands share, and the values that they take.

pub(crate) mod bytes;
pub(crate) mod data_cache;
pub(crate) mod devices;
pub(crate) mod duration;
pub(crate) mod reading;
pub(crate) mod time_limit;
pub(crate) mod tracked_run;
pub(crate) mod tracking;
