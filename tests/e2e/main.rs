//! End to end: the whole server on free ports, real sockets, real pictures.

#[path = "../support/mod.rs"]
mod support;

mod pictures;
mod process;
mod publish;
mod rest;
mod signalling;
mod whole;
