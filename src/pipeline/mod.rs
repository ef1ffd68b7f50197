//! Where images meet networks: recipes, datasets, sampling, training, both stages on a volume, batches of
//! volumes, evaluation.

pub mod bundle;
pub mod cascade;
mod case_loss;
pub mod case_score;
pub mod checkpoint;
pub mod dataset;
mod distances;
mod epoch;
pub mod evaluation;
pub mod fine_tuning;
pub mod fingerprint;
pub mod fit;
pub mod generated;
pub mod guard;
pub mod inputs;
pub mod manifest;
pub mod mirroring;
pub mod observer;
pub mod patches;
pub mod phantom_set;
pub mod predict;
pub mod recipe;
pub mod reference;
pub mod roi;
pub mod run_folder;
pub mod sampling;
pub mod schedule;
pub mod segmenter;
pub mod sides;
pub mod slice_set;
mod sliding;
mod stage_loss;
pub mod stage_one;
pub mod tracker;
pub mod training;
pub mod validation;
