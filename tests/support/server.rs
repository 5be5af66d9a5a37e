//! The server as a library, on free ports, in a folder of its own.

use std::net::SocketAddr;
use std::path::Path;

use stillcast::app::App;
use stillcast::base::threads;
use stillcast::conf::{self, Sources};
use tempfile::TempDir;

/// A running server. When it is dropped it is stopped, and the test fails if that did not work or if a thread
/// panicked.
pub struct Server {
    app: Option<App>,
    folder: TempDir,
}

impl Server {
    /// Starts a server with these keys changed, with `demo` also the test card.
    pub fn start(settings: &[(&str, &str)], demo: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources {
            file: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(conf::DEFAULT_FILE)),
            environment: Vec::new(),
            settings: settings_in(folder.path(), settings),
        };
        let loaded = conf::load(&sources).unwrap_or_else(|error| panic!("{error}"));
        let app = App::start(&loaded.config, demo).unwrap_or_else(|error| panic!("{error:?}"));
        Self { app: Some(app), folder }
    }

    /// The running server.
    pub fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    /// Where a port listens: `ws`, `http` …
    pub fn address(&self, name: &str) -> SocketAddr {
        self.app().address(name).unwrap_or_else(|| panic!("port {name} is closed"))
    }

    /// The folder in which it writes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops it now; returns what did not end.
    pub fn stop(mut self) -> Vec<String> {
        self.app.take().unwrap().stop()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stuck = self.app.take().map(App::stop).unwrap_or_default();
        if !std::thread::panicking() {
            assert_eq!(stuck, Vec::<String>::new(), "did not stop");
            assert_eq!(threads::panics(), 0, "a thread panicked");
        }
    }
}

/// Keys for a server of a test: ports free, on this machine only, everything written inside `folder`; then `settings`.
pub fn settings_in(folder: &Path, settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let data = folder.join("data");
    let own = [
        ("ip_local", "127.0.0.1"),
        ("ws.port", "0"),
        ("wss.port", "0"),
        ("http.port", "0"),
        ("https.port", "0"),
        ("legacy_https.port", "0"),
        ("rtmp.port", "0"),
        ("rtsp.port", "0"),
        ("rtmps.port", "0"),
        ("data_dir", data.to_str().unwrap()),
    ];
    own.iter().chain(settings).map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}
