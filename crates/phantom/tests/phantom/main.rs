//! Tests of the crate `ctseg-phantom` against golden values and real files.

mod phantom;
