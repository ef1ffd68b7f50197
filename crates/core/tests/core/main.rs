//! Tests of the crate `ctseg-core` against golden values and real files.

mod datasets;
