//! Reads what `torch.save` writes, without running any of it: a zip archive of a pickle, which is a program, and of the
//! tensors' bytes. Of that program's calls only those are known that make tensors, dictionaries and NumPy's scalars;
//! any other is refused by name. Writes such files too.

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
