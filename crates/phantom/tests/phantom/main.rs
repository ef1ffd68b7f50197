//! Tests of `ctseg-phantom`.

mod phantom;
