//! Models of other programs, in and out.

mod export;
mod nnunet;
mod nnunet_export;
mod nnunet_import;
mod parted;
mod totalsegmentator;
