//! Import from and export to other programs, and multi-part models.

mod export;
mod multi_part;
mod nnunet;
mod nnunet_export;
mod nnunet_import;
mod totalsegmentator;
