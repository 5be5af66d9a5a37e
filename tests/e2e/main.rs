//! End to end: the whole server on free ports, real sockets, real pictures.

#[path = "../support/mod.rs"]
mod support;

mod process;
