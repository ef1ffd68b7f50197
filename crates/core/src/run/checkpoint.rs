//! Training checkpoints: a single file written atomically, with a checksum that detects later changes.

pub use super::progress::{EpochPosition, Progress, StopReason};

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use ctseg_base::atomic_file::{copy_synced, sync_folder};
use ctseg_base::{Error, Result};
use ctseg_engine::weights::{
    HostTensor, NamedTensors, below_prefix, elements_of, prefixed, read_tensors, write_tensors,
};

/// The state of a training: weights, optimiser, progress. In `best` the weights are those that were validated
/// (the average, if one is kept), and the optimiser state is empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub network: NamedTensors,
    pub optimiser: NamedTensors,
    pub progress: Progress,
}

/// The folder of one fold's checkpoints: `last`, `previous` and `best`, each `.safetensors`, and `stopped` if
/// the time limit interrupted an epoch whose weights are the best so far.
#[derive(Debug, Clone)]
pub struct CheckpointFolder(PathBuf);

impl CheckpointFolder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn last(&self) -> PathBuf {
        self.0.join("last.safetensors")
    }

    pub fn previous(&self) -> PathBuf {
        self.0.join("previous.safetensors")
    }

    pub fn best(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    pub fn stopped(&self) -> PathBuf {
        self.0.join("stopped.safetensors")
    }

    /// Saves `checkpoint` as `last`; the old one becomes `previous`. Once written, `last` exists at
    /// all times.
    pub fn save_last(&self, checkpoint: &Checkpoint) -> Result<()> {
        let last = self.last();
        if last.exists() {
            // Link the old file under a second name first, then replace it.
            let link = self.0.join(".ctseg-previous");
            let _ = std::fs::remove_file(&link);
            let linked = std::fs::hard_link(&last, &link).or_else(|_| copy_synced(&last, &link));
            linked.map_err(Error::io(&link, "keep the previous checkpoint as"))?;
            std::fs::rename(&link, self.previous()).map_err(Error::io(
                self.previous(),
                "keep the previous checkpoint as",
            ))?;
        }
        write(&last, checkpoint)
    }

    /// Saves `checkpoint` as `best`.
    pub fn save_best(&self, checkpoint: &Checkpoint) -> Result<()> {
        write(&self.best(), checkpoint)
    }

    /// Saves `checkpoint` as `stopped`: used for the model although its epoch is incomplete. A resumed run ignores it
    /// and continues from [`CheckpointFolder::last`].
    pub fn save_stopped(&self, checkpoint: &Checkpoint) -> Result<()> {
        write(&self.stopped(), checkpoint)
    }

    /// Removes [`CheckpointFolder::stopped`].
    pub fn remove_stopped(&self) -> Result<()> {
        match std::fs::remove_file(self.stopped()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(self.stopped(), "remove")(error))
            }
            _ => Ok(()),
        }
    }

    /// The last checkpoint; if it is damaged, `previous` replaces it and `warn` is called. `None` without
    /// checkpoints.
    ///
    /// # Errors
    /// There are checkpoints, but none can be used.
    pub fn load_last(&self, warn: &dyn Fn(&str)) -> Result<Option<Checkpoint>> {
        let (last, previous) = (self.last(), self.previous());
        if !last.exists() && !previous.exists() {
            if self.best().exists() {
                return Err(Error::file(
                    &last,
                    "is missing although training had started; start a new run without --resume",
                ));
            }
            return Ok(None);
        }
        let damaged = match Checkpoint::load(&last) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) => error,
        };
        let restored = Checkpoint::load(&previous).map_err(|error| {
            Error::invalid(format!(
                "{damaged}; the previous checkpoint cannot be used either ({error}): start a new run without --resume"
            ))
        })?;
        std::fs::rename(&previous, &last)
            .map_err(Error::io(&last, "restore the previous checkpoint as"))?;
        sync_folder(&self.0)?;
        warn(&format!(
            "{damaged}; resuming from the previous checkpoint, {}",
            restored.progress.position_text()
        ));
        Ok(Some(restored))
    }
}

impl Checkpoint {
    /// Reads a checkpoint file.
    pub fn load(path: &Path) -> Result<Self> {
        let (tensors, metadata) = read_tensors(path)?;
        let foreign = |error| Error::file(path, format!("not a ctseg checkpoint: {error}"));
        // Checkpoints of early versions contain only the progress, without a checksum.
        let progress = match serde_json::from_str::<Metadata>(&metadata) {
            Ok(saved) if saved.sha256 == checksum(&tensors, &saved.progress) => saved.progress,
            Ok(_) => {
                return Err(Error::file(
                    path,
                    "its checksum does not match its content: the file has changed since it was written",
                ));
            }
            Err(_) => metadata,
        };
        let progress = serde_json::from_str(&progress).map_err(foreign)?;
        Ok(Self {
            network: below_prefix("network.", &tensors),
            optimiser: below_prefix("optimiser.", &tensors),
            progress,
        })
    }

    /// Serialises the checkpoint for other processes: length of the header, the header as JSON, and all values in its
    /// order.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let shapes = |tensors: &NamedTensors| {
            let shapes = tensors
                .iter()
                .map(|(name, t)| (name.clone(), t.shape.clone()));
            shapes.collect()
        };
        let header = serde_json::to_vec(&BytesHeader {
            network: shapes(&self.network),
            optimiser: shapes(&self.optimiser),
            progress: self.progress.clone(),
        })
        .map_err(|error| Error::invalid(format!("cannot serialise the progress: {error}")))?;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        for tensor in self.network.values().chain(self.optimiser.values()) {
            bytes.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Ok(bytes)
    }

    /// See [`Checkpoint::to_bytes`].
    ///
    /// # Errors
    /// Bytes in another format, such as of another version of ctseg.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let foreign = || {
            Error::invalid(
                "cannot read the initial state from rank 0; all ranks must run the same ctseg version",
            )
        };
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(foreign)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| foreign())?;
        let (header, mut values) = rest.split_at_checked(length).ok_or_else(foreign)?;
        let header: BytesHeader = serde_json::from_slice(header).map_err(|_| foreign())?;
        let mut tensors = |shapes: Vec<(String, Vec<usize>)>| -> Result<NamedTensors> {
            let tensor = |(name, shape): (String, Vec<usize>)| {
                let count = elements_of(&shape).map(|numbers| 4 * numbers);
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
        let network = tensors(header.network)?;
        let optimiser = tensors(header.optimiser)?;
        match values.is_empty() {
            true => Ok(Self {
                network,
                optimiser,
                progress: header.progress,
            }),
            false => Err(foreign()),
        }
    }
}

/// The header of [`Checkpoint::to_bytes`].
#[derive(Serialize, Deserialize)]
struct BytesHeader {
    network: Vec<(String, Vec<usize>)>,
    optimiser: Vec<(String, Vec<usize>)>,
    progress: Progress,
}

/// The metadata of a checkpoint file.
#[derive(Serialize, Deserialize)]
struct Metadata {
    sha256: String,
    /// [`Progress`] as JSON, as it was hashed.
    progress: String,
}

/// SHA-256 over the content of a checkpoint.
fn checksum(tensors: &NamedTensors, progress: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(progress);
    for (name, tensor) in tensors {
        hasher.update(format!("\0{name}\0{:?}\0", tensor.shape));
        for values in tensor.values.chunks(1 << 14) {
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            hasher.update(&bytes);
        }
    }
    format!("{:x}", hasher.finalize())
}

fn write(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let mut tensors = NamedTensors::new();
    tensors.extend(prefixed("network.", checkpoint.network.clone()));
    tensors.extend(prefixed("optimiser.", checkpoint.optimiser.clone()));
    let unwritable = |error| Error::file(path, format!("cannot serialise the progress: {error}"));
    let progress = serde_json::to_string(&checkpoint.progress).map_err(unwritable)?;
    let saved = Metadata {
        sha256: checksum(&tensors, &progress),
        progress,
    };
    let metadata = serde_json::to_string(&saved).map_err(unwritable)?;
    write_tensors(path, &tensors, &metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::early_stopping::EarlyStopping;
    use crate::run::plateau::ReduceOnPlateau;

    fn checkpoint(epoch: usize) -> Checkpoint {
        let tensor = HostTensor {
            shape: vec![2],
            values: vec![epoch as f32, 0.1 + 0.2],
        };
        Checkpoint {
            network: NamedTensors::from([("head.weight".to_owned(), tensor.clone())]),
            optimiser: NamedTensors::from([("m.head.weight".to_owned(), tensor)]),
            progress: Progress {
                epoch,
                optimiser_steps: 7,
                plateau: ReduceOnPlateau::new(1e-3 / 3.0),
                early_stopping: EarlyStopping::new(),
                best: Some((1, Some(0.1 + 0.2))),
                best_validation: None,
                last_validation: None,
                seconds: 1.5,
                ended: None,
                bad_steps: 2,
                within: Some(EpochPosition {
                    batches: 3,
                    slices: 12,
                    steps_taken: 2,
                    loss_sum: 0.1 + 0.7,
                }),
            },
        }
    }

    #[test]
    fn the_previous_checkpoint_replaces_a_damaged_last() {
        type Damage = (&'static str, fn(&mut Vec<u8>));
        let damages: [Damage; 6] = [
            ("empty", |bytes| bytes.clear()),
            ("torn", |bytes| bytes.truncate(bytes.len() - 3)),
            ("torn early", |bytes| bytes.truncate(20)),
            ("a bit of a weight", |bytes| {
                if let Some(byte) = bytes.last_mut() {
                    *byte ^= 1;
                }
            }),
            ("a digit of the progress", |bytes| {
                let at = bytes.windows(6).position(|w| w == b"slices").unwrap();
                bytes[at + 9] ^= 1; // slices\\":12
            }),
            ("a name", |bytes| {
                let at = bytes.windows(4).position(|w| w == b"head").unwrap();
                bytes[at] ^= 1;
            }),
        ];
        for (what, damage) in damages {
            let folder = tempfile::tempdir().unwrap();
            let checkpoints = CheckpointFolder::new(folder.path());
            let said = std::cell::RefCell::new(Vec::new());
            let load = || checkpoints.load_last(&|line| said.borrow_mut().push(line.to_owned()));
            assert_eq!(load().unwrap(), None);
            for epoch in 0..3 {
                checkpoints.save_last(&checkpoint(epoch)).unwrap();
            }
            assert_eq!(load().unwrap(), Some(checkpoint(2)));
            assert_eq!(
                Checkpoint::load(&checkpoints.previous()).unwrap(),
                checkpoint(1)
            );
            assert!(said.borrow().is_empty());

            let spoil = |path: &Path| {
                let mut bytes = std::fs::read(path).unwrap();
                damage(&mut bytes);
                std::fs::write(path, bytes).unwrap();
            };
            spoil(&checkpoints.last());
            assert_eq!(load().unwrap(), Some(checkpoint(1)), "{what}");
            let line = said.borrow_mut().pop().unwrap();
            assert!(line.contains("epoch 2, batch 3"), "{what}: {line}");
            assert!(!line.contains('\n') && said.borrow().is_empty(), "{line}");
            let last = Checkpoint::load(&checkpoints.last()).unwrap();
            assert_eq!(last, checkpoint(1), "{what}");

            spoil(&checkpoints.last());
            let error = load().unwrap_err().to_string();
            assert!(error.contains("last.safetensors"), "{what}: {error}");
            assert!(error.contains("without --resume"), "{what}: {error}");
            std::fs::remove_file(checkpoints.last()).unwrap();
            checkpoints.save_best(&checkpoint(1)).unwrap();
            assert!(load().unwrap_err().to_string().contains("is missing"));
        }
    }

    #[test]
    fn checkpoints_of_early_versions_have_no_checksum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        let tensors = prefixed("network.", checkpoint(1).network).collect();
        let progress = Progress::new(0.1);
        write_tensors(&path, &tensors, &serde_json::to_string(&progress).unwrap()).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap().progress, progress);
    }

    #[test]
    fn bytes_round_trip() {
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
        let bytes = checkpoint.to_bytes().unwrap();
        assert_eq!(Checkpoint::from_bytes(&bytes).unwrap(), checkpoint);
        let mut longer = bytes.clone();
        longer.push(0);
        for wrong in [&bytes[..bytes.len() - 1], &bytes[..20], &[], &longer] {
            let said = Checkpoint::from_bytes(wrong).unwrap_err().to_string();
            assert!(said.contains("the same ctseg"), "{said}");
        }
    }
}
