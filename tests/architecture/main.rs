//! The structure of the sources: no import circles, layers and crates import downward only, heavy crates are named in
//! one place, files are opened in one place, files and functions stay short, and links between pages are valid.
//! Snapshots list all texts that users can see.

mod circles;
mod crate_order;
mod heavy_crates;
mod imports;
mod layers;
mod messages;
mod opening;
mod pages;
mod parsed;
mod sizes;
mod sources;
mod threads;
mod words;
