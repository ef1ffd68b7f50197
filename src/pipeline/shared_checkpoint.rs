//! A checkpoint as bytes, for processes that have no folder in common.

use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, Progress};
use crate::error::{Error, Result};
use crate::tensors::weights::{HostTensor, NamedTensors};

/// What comes before the values.
#[derive(Serialize, Deserialize)]
struct Head {
    network: Vec<(String, Vec<usize>)>,
    optimiser: Vec<(String, Vec<usize>)>,
    progress: Progress,
}

/// Length of the head, the head as JSON, and all values in its order.
pub(super) fn to_bytes(checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    let shapes = |tensors: &NamedTensors| {
        let shapes = tensors
            .iter()
            .map(|(name, t)| (name.clone(), t.shape.clone()));
        shapes.collect()
    };
    let head = serde_json::to_vec(&Head {
        network: shapes(&checkpoint.network),
        optimiser: shapes(&checkpoint.optimiser),
        progress: checkpoint.progress.clone(),
    })
    .map_err(|error| Error::invalid(format!("cannot write the progress: {error}")))?;
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head);
    for tensor in checkpoint
        .network
        .values()
        .chain(checkpoint.optimiser.values())
    {
        bytes.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
    }
    Ok(bytes)
}

/// See [`to_bytes`].
///
/// # Errors
/// Bytes of another make, such as of another version of ctseg.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<Checkpoint> {
    let foreign = || {
        Error::invalid(
            "what process 0 begins with cannot be read here; all processes must run the same ctseg",
        )
    };
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(foreign)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| foreign())?;
    let (head, mut values) = rest.split_at_checked(length).ok_or_else(foreign)?;
    let head: Head = serde_json::from_slice(head).map_err(|_| foreign())?;
    let mut tensors = |shapes: Vec<(String, Vec<usize>)>| -> Result<NamedTensors> {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let count = shape
                .iter()
                .try_fold(4usize, |n, side| n.checked_mul(*side));
            let taken = count.and_then(|count| values.split_at_checked(count));
            let (own, others) = taken.ok_or_else(foreign)?;
            values = others;
            let values = own.chunks_exact(4);
            let values = values
                .map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]]))
                .collect();
            Ok((name, HostTensor { shape, values }))
        };
        shapes.into_iter().map(tensor).collect()
    };
    let network = tensors(head.network)?;
    let optimiser = tensors(head.optimiser)?;
    match values.is_empty() {
        true => Ok(Checkpoint {
            network,
            optimiser,
            progress: head.progress,
        }),
        false => Err(foreign()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_through_whole() {
        let tensor = |shape: &[usize], first: f32| HostTensor {
            shape: shape.to_vec(),
            values: (0..shape.iter().product())
                .map(|i| first + i as f32 / 3.0)
                .collect(),
        };
        let checkpoint = Checkpoint {
            network: NamedTensors::from([
                ("a".to_owned(), tensor(&[2, 3], 0.5)),
                ("b".to_owned(), tensor(&[], -1.0)),
            ]),
            optimiser: NamedTensors::from([("m.a".to_owned(), tensor(&[6], 1e-30))]),
            progress: Progress::new(1.0 / 3.0),
        };
        let bytes = to_bytes(&checkpoint).unwrap();
        assert_eq!(from_bytes(&bytes).unwrap(), checkpoint);
        let mut longer = bytes.clone();
        longer.push(0);
        for wrong in [&bytes[..bytes.len() - 1], &bytes[..20], &[], &longer] {
            let said = from_bytes(wrong).unwrap_err().to_string();
            assert!(said.contains("the same ctseg"), "{said}");
        }
    }
}
