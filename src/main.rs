//! The server's entry: arguments, configuration, start, signal, stop.

fn main() {}
