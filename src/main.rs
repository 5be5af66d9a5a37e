//! The server's entry: arguments, configuration, start, signal, stop.

use std::process::ExitCode;

fn main() -> ExitCode {
    stillcast::cli::run()
}
