//! What the fuzz targets call; the tests of the project call the same.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod second_opinion;
