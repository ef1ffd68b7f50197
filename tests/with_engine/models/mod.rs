//! Models of other programs, in and out.

mod export;
mod multi_part;
mod nnunet;
mod nnunet_export;
mod nnunet_import;
mod totalsegmentator;
