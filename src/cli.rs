//! The command line: what was asked for, and the process around the server (log, signals, exit code).

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::app::App;
use crate::banner;
use crate::conf::{self, ConfError, Loaded, Sources};

/// A streaming server for pictures of live video: WebRTC in, PNG out.
///
/// It exits with 0 after a clean stop, 1 after an error, 2 when the command line is wrong. SIGINT and SIGTERM stop it
/// cleanly within five seconds; a second signal stops it at once.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Arguments {
    /// Configuration file [default: conf/flashphoner.properties, if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also publish a live numbered test card as stream "test".
    #[arg(long)]
    demo: bool,
    /// Check the configuration and exit with 0 or 1.
    #[arg(long, conflicts_with = "print_config")]
    check_config: bool,
    /// Print each key's effective value and where it came from, and exit.
    #[arg(long)]
    print_config: bool,
    /// Set a key; it goes before the environment and the file. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if name.trim().is_empty() {
        return Err("expected a key before the =".into());
    }
    Ok((name.into(), value.into()))
}

/// Runs the program to its end; the result is the exit code.
#[must_use]
pub fn run() -> ExitCode {
    // A wrong command line ends the process here, with exit code 2 and a message of clap's.
    let arguments = Arguments::parse();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    let sources = Sources {
        file: arguments.config.clone(),
        environment: environment.collect(),
        settings: arguments.set.clone(),
    };
    match conf::load(&sources) {
        Ok(loaded) if arguments.print_config => {
            say_warnings(&loaded.warnings);
            print(&loaded.print())
        }
        Ok(loaded) if arguments.check_config => {
            say_warnings(&loaded.warnings);
            print("The configuration can be used.\n")
        }
        Ok(loaded) => serve(&loaded, arguments.demo),
        Err(ConfError { faults, warnings }) => {
            say_warnings(&warnings);
            faults.iter().for_each(|fault| say("error", fault));
            ExitCode::FAILURE
        }
    }
}

/// The server's life: start, banner, wait for a signal, stop.
fn serve(loaded: &Loaded, demo: bool) -> ExitCode {
    // Before anything is opened, so that a signal in the middle of the start is not lost.
    let mut signals = match signals() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen for signals: {error}")),
    };
    start_log(&loaded.config.log_level);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let app = match App::start(&loaded.config, demo) {
        Ok(app) => app,
        Err(error) => return fail(&chain(&error)),
    };
    // A banner that nobody reads is no reason to stop.
    let _ = print(&banner::text(&app, &loaded.config, demo));
    let signal = signals.forever().next();
    // Two at the same instant meet on two threads, where neither sees the other.
    if signals.pending().next().is_some() {
        return ExitCode::FAILURE;
    }
    tracing::info!(signal, "stopping");
    let stuck = app.stop();
    if stuck.is_empty() {
        tracing::info!("stopped");
        ExitCode::SUCCESS
    } else {
        fail(&format!("did not stop in time: {}", stuck.join(", ")))
    }
}

/// The first signal is handed out; the second ends the process at once, with exit code 1.
fn signals() -> std::io::Result<Signals> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order matters: on the first signal the flag is still off when the shutdown looks at it.
        signal_hook::flag::register_conditional_shutdown(signal, 1, stopping.clone())?;
        signal_hook::flag::register(signal, stopping.clone())?;
    }
    Signals::new([SIGINT, SIGTERM, SIGHUP])
}

/// Logs to standard error: time, level, thread, module, text. Other people's crates speak from `warn` up, unless they
/// are named.
fn start_log(level: &str) {
    let (general, modules) = level.split_once(',').unwrap_or((level, ""));
    let general = general.trim().parse().unwrap_or(LevelFilter::INFO);
    let mut targets = Targets::new()
        .with_default(general.min(LevelFilter::WARN))
        .with_target("stillcast", general)
        // It warns of each extension of a browser's hello that it does not know.
        .with_target("dtls", general.min(LevelFilter::ERROR));
    for word in modules.split(',') {
        if let Some((module, level)) = word.split_once('=')
            && let Ok(level) = level.trim().parse::<LevelFilter>()
        {
            targets = targets.with_target(module.trim(), level);
        }
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_thread_names(true);
    // Fails only when a log exists already, which then goes on.
    let _ = tracing_subscriber::registry().with(targets).with(lines).try_init();
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn say(kind: &str, text: &str) {
    let _ = writeln!(std::io::stderr(), "{kind}: {text}");
}

fn say_warnings(warnings: &[String]) {
    warnings.iter().for_each(|warning| say("warning", warning));
}

fn fail(text: &str) -> ExitCode {
    say("error", text);
    ExitCode::FAILURE
}
