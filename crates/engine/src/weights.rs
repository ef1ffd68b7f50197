//! Named tensors in safetensors files, to and from a network's module.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};

use crate::named_parameters::{NamedMapper, NamedVisitor, map_named, visit_named};
use crate::networks::Network;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::regular_file::read_at_most;
use ctseg_base::{Error, Result, pointer_file, regular_file};

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Tensors by name, sorted.
pub type NamedTensors = BTreeMap<String, HostTensor>;

/// Number of elements of a tensor of this shape. `None` on overflow, also for empty tensors: a side of 0 counts as 1
/// in that check, so that no product of some of the sides can overflow later.
pub fn elements_of(shape: &[usize]) -> Option<usize> {
    let product = |all: usize, side: &usize| all.checked_mul((*side).max(1));
    let most = shape.iter().try_fold(1, product)?;
    most.checked_mul(size_of::<f64>())?;
    Some(if shape.contains(&0) { 0 } else { most })
}

/// The only metadata key; a single key keeps files reproducible.
const METADATA_KEY: &str = "ctseg";

/// All weights and running statistics of `network`, by name.
pub fn network_tensors(network: &Network) -> Result<NamedTensors> {
    struct Collector {
        tensors: NamedTensors,
        problem: Option<String>,
    }
    impl NamedVisitor for Collector {
        fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            let value = param.val();
            let shape = value.dims().to_vec();
            match value.into_data().convert::<f32>().try_into_vec::<f32>() {
                Ok(values) => {
                    self.tensors.insert(name, HostTensor { shape, values });
                }
                Err(error) => self.problem = Some(format!("{name}: {error:?}")),
            }
        }
    }
    let mut collector = Collector {
        tensors: NamedTensors::new(),
        problem: None,
    };
    // `valid` updates the running statistics before they are read.
    visit_named(&network.valid(), &mut collector);
    match collector.problem {
        Some(problem) => Err(Error::invalid(format!(
            "cannot read weights back: {problem}"
        ))),
        None => Ok(collector.tensors),
    }
}

/// `network` in inference mode on `device`, with its weights replaced by `tensors`.
///
/// # Errors
/// Names or shapes that do not match the network; the first few are listed.
pub fn with_tensors(network: Network, tensors: &NamedTensors, device: &Device) -> Result<Network> {
    struct Loader<'a> {
        tensors: &'a NamedTensors,
        device: &'a Device,
        used: usize,
        problems: Vec<String>,
    }
    impl NamedMapper for Loader<'_> {
        fn map<const D: usize>(
            &mut self,
            name: String,
            param: Param<Tensor<D>>,
        ) -> Param<Tensor<D>> {
            let wanted = param.lazy_shape().to_vec();
            match self.tensors.get(&name) {
                Some(tensor) if tensor.shape == wanted => {
                    self.used += 1;
                    let data = TensorData::new(tensor.values.clone(), tensor.shape.clone());
                    let device = self.device.clone();
                    let (id, _, mapper) = param.consume();
                    Param::from_mapped_value(id, Tensor::from_data(data, &device), mapper)
                }
                Some(tensor) => {
                    self.problems.push(format!(
                        "{name} has shape {:?}, expected {wanted:?}",
                        tensor.shape
                    ));
                    param
                }
                None => {
                    self.problems.push(format!("{name} is missing"));
                    param
                }
            }
        }
    }
    let mut loader = Loader {
        tensors,
        device,
        used: 0,
        problems: Vec::new(),
    };
    let network = map_named(network.valid(), &mut loader);
    if loader.used < tensors.len() && loader.problems.is_empty() {
        loader.problems.push(format!(
            "{} tensors match no layer",
            tensors.len() - loader.used
        ));
    }
    if loader.problems.is_empty() {
        return Ok(network.valid());
    }
    let count = loader.problems.len();
    loader.problems.truncate(3);
    Err(Error::invalid(format!(
        "weights do not match the recipe's network ({count} mismatches): {}",
        loader.problems.join("; ")
    )))
}

/// Whether a tensor is trained by gradients; running statistics are not.
pub fn is_trained(name: &str) -> bool {
    !name.contains("running_")
}

/// Adds `prefix` to every name.
pub fn prefixed(prefix: &str, tensors: NamedTensors) -> impl Iterator<Item = (String, HostTensor)> {
    tensors
        .into_iter()
        .map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
}

/// The tensors whose names start with `prefix`, with the prefix removed.
pub fn below_prefix(prefix: &str, tensors: &NamedTensors) -> NamedTensors {
    tensors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone())))
        .collect()
}

/// Writes a safetensors file (f32) atomically, with `metadata` in its header.
pub fn write_tensors(path: &Path, tensors: &NamedTensors, metadata: &str) -> Result<()> {
    let bytes: Vec<(&String, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            (
                name,
                tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            )
        })
        .collect();
    let fail = |error: safetensors::SafeTensorError| {
        Error::file(path, format!("cannot write weights: {error}"))
    };
    let views = bytes
        .iter()
        .map(|(name, bytes)| {
            let view = TensorView::new(Dtype::F32, tensors[*name].shape.clone(), bytes)?;
            Ok((name.as_str(), view))
        })
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(fail)?;
    let metadata =
        std::collections::HashMap::from([(METADATA_KEY.to_owned(), metadata.to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(fail)?;
    write_bytes_atomically(path, &file)
}

/// Weights of a network that a GPU can train are smaller; a larger file would fill the memory.
const MAX_FILE_BYTES: u64 = 16 << 30;

/// Reads the tensors and metadata of a safetensors file written by ctseg.
///
/// # Errors
/// The file is missing, damaged, or holds anything but f32 tensors.
pub fn read_tensors(path: &Path) -> Result<(NamedTensors, String)> {
    read_shapes(path)?; // reject a wrong header before reading the whole file
    let bytes = read_at_most(path, MAX_FILE_BYTES).map_err(Error::io(path, "read"))?;
    let damaged = |error| {
        let pointer = pointer_file::problem(path);
        Error::file(
            path,
            pointer.unwrap_or_else(|| format!("damaged safetensors file: {error}")),
        )
    };
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let metadata = header
        .metadata()
        .as_ref()
        .and_then(|map| map.get(METADATA_KEY).cloned())
        .unwrap_or_default();
    let mut tensors = NamedTensors::new();
    for (name, view) in file.tensors() {
        check_tensor(path, &name, view.dtype(), view.shape())?;
        let values = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        tensors.insert(
            name,
            HostTensor {
                shape: view.shape().to_vec(),
                values,
            },
        );
    }
    Ok((tensors, metadata))
}

/// The limit of the safetensors format.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The shapes of a safetensors file's tensors by name. Checks header and file length, and reads no tensor.
///
/// # Errors
/// As [`read_tensors`].
pub fn read_shapes(path: &Path) -> Result<BTreeMap<String, Vec<usize>>> {
    let damaged = |problem: String| {
        let pointer = pointer_file::problem(path);
        let problem = pointer.unwrap_or_else(|| format!("damaged safetensors file: {problem}"));
        Error::file(path, problem)
    };
    let mut file = regular_file::open(path).map_err(Error::io(path, "open"))?;
    let length = file.metadata().map_err(Error::io(path, "read"))?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size)
        .map_err(|error| damaged(error.to_string()))?;
    let size = u64::from_le_bytes(size);
    let begin = size.saturating_add(8);
    if size > MAX_HEADER_BYTES || begin > length {
        return Err(damaged(format!(
            "a header of {size} bytes in a file of {length}"
        )));
    }
    let mut header = Vec::new();
    file.take(size)
        .read_to_end(&mut header)
        .map_err(Error::io(path, "read"))?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
    let end = begin.saturating_add(header.data_len() as u64);
    if end != length {
        return Err(damaged(format!(
            "the header describes {end} bytes, but the file has {length}"
        )));
    }
    let mut shapes = BTreeMap::new();
    for (name, info) in header.tensors() {
        check_tensor(path, &name, info.dtype, &info.shape)?;
        shapes.insert(name, info.shape.clone());
    }
    Ok(shapes)
}

fn check_tensor(path: &Path, name: &str, kind: Dtype, shape: &[usize]) -> Result<()> {
    let problem = match (kind, elements_of(shape)) {
        (Dtype::F32, Some(_)) => return Ok(()),
        (Dtype::F32, None) => format!("tensor {name} has an invalid shape {shape:?}"),
        _ => format!("tensor {name} is {kind:?}; expected F32 weights written by ctseg"),
    };
    Err(Error::file(path, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceChoice;
    use crate::networks::{NetworkConfig, UnetConfig};
    use burn::module::ModuleVisitor;

    fn network(widths: &[usize], device: &Device) -> Network {
        let config = UnetConfig {
            widths: widths.to_vec(),
            dropout: 0.1,
            ..UnetConfig::default()
        };
        NetworkConfig::Unet2d(config).init(2, 3, device).unwrap()
    }

    #[test]
    fn a_network_survives_the_file_and_trains_on() {
        let device = DeviceChoice::Auto.device().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        device.seed(1);
        let original = network(&[4, 8], &device.clone().autodiff());
        let tensors = network_tensors(&original).unwrap();
        assert!(
            tensors.contains_key("encoder.0.0.conv.weight"),
            "{:?}",
            tensors.keys()
        );
        assert!(tensors.contains_key("encoder.1.1.norm.running_var"));
        write_tensors(&path, &tensors, "{\"epoch\":3}").unwrap();
        let (read, metadata) = read_tensors(&path).unwrap();
        assert_eq!(read, tensors);
        assert_eq!(metadata, "{\"epoch\":3}");

        device.seed(2);
        let loaded = with_tensors(network(&[4, 8], &device), &read, &device).unwrap();
        let input = Tensor::<5>::random(
            [1, 2, 1, 8, 8],
            burn::tensor::Distribution::Default,
            &device,
        );
        let expected = original.valid().forward(input.clone()).unwrap().into_data();
        assert_eq!(loaded.forward(input.clone()).unwrap().into_data(), expected);

        let training = loaded.train();
        let loss = training.forward(Tensor::from_inner(input)).unwrap().mean();
        let gradients = loss.backward();
        struct Count<'a>(&'a burn::tensor::Gradients, usize);
        impl ModuleVisitor for Count<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.1 +=
                    usize::from(param.is_require_grad() && param.val().grad(self.0).is_some());
            }
        }
        let mut count = Count(&gradients, 0);
        training.visit(&mut count);
        assert_eq!(count.1, 3 * 6 + 2 + 2, "every weight must get a gradient");
    }

    #[test]
    fn weights_of_another_network_are_refused_by_name() {
        let device = DeviceChoice::Auto.device().unwrap();
        let tensors = network_tensors(&network(&[4, 8], &device)).unwrap();
        let error = with_tensors(network(&[4, 16], &device), &tensors, &device)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("encoder.1.0.conv.weight has shape"),
            "{error}"
        );
        assert!(with_tensors(network(&[4, 8, 16], &device), &tensors, &device).is_err());
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let tensor = HostTensor {
            shape: vec![2, 2],
            values: vec![1.0, 2.0, 3.0, 4.0],
        };
        write_tensors(&path, &NamedTensors::from([("a".to_owned(), tensor)]), "").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for end in [0, 7, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..end]).unwrap();
            let error = read_tensors(&path).unwrap_err().to_string();
            assert!(error.contains("w.safetensors"), "{error}");
            let error = read_shapes(&path).unwrap_err().to_string();
            assert!(error.contains("w.safetensors"), "{error}");
        }
        std::fs::write(&path, &whole).unwrap();
        let shapes = BTreeMap::from([("a".to_owned(), vec![2, 2])]);
        assert_eq!(read_shapes(&path).unwrap(), shapes);
        // An empty tensor whose sides overflow.
        let header = br#"{"a":{"dtype":"F32","shape":[0,1099511627776,1099511627776],"data_offsets":[0,0]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
        std::fs::write(&path, bytes).unwrap();
        for error in [
            read_tensors(&path).unwrap_err(),
            read_shapes(&path).unwrap_err(),
        ] {
            assert!(error.to_string().contains("invalid shape"), "{error}");
        }
        // A header longer than its file.
        std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
        let error = read_shapes(&path).unwrap_err().to_string();
        assert!(error.contains("in a file of 8"), "{error}");
    }

    #[test]
    fn sides_are_multiplied_only_where_they_can_be() {
        assert_eq!(elements_of(&[]), Some(1));
        assert_eq!(elements_of(&[2, 3]), Some(6));
        assert_eq!(elements_of(&[0, 1 << 40]), Some(0));
        assert_eq!(elements_of(&[0, 1 << 40, 1 << 40]), None);
        assert_eq!(elements_of(&[1 << 62]), None);
    }
}
