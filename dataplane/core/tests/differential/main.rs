//! Segmentation and coalescing against a slow second implementation that was written from the RFCs alone: every packet
//! is taken apart into fields and put together again, with checksums summed word by word.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may")]

mod coalescing;
mod generate;
mod reference;
mod segmentation;
mod stream;
