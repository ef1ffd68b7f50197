//! Reads and writes files of `torch.save`: a zip archive of a pickle and the tensors' bytes. A pickle is a program;
//! it is interpreted without running any code. Only calls that make tensors, dictionaries and NumPy scalars are
//! allowed; others are rejected by name.

mod archive;
mod budget;
mod calls;
mod entries;
mod pickle;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub use archive::{StoredTensor, TorchFile};
pub use value::{Node, Value};
pub use write::{Pickled, write_torch};
