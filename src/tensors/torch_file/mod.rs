//! Reads what `torch.save` writes, without running any of it: a zip archive of a pickle, which is a program, and of the
//! tensors' bytes. Of that program's calls only those are known that make tensors, dictionaries and NumPy's scalars;
//! any other is refused by name.

mod archive;
mod pickle;
mod value;

pub use archive::{StoredTensor, TorchFile};
pub use value::{Node, Value};
