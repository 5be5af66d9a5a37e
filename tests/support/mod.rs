//! What end-to-end tests share: the server as a library and as a process, clients of each protocol.

pub mod browser;
pub mod camera;
pub mod clip;
pub mod page;
pub mod process;
pub mod publishers;
pub mod relay;
pub mod rest;
pub mod rtmp;
pub mod server;
pub mod site;
pub mod viewer;
pub mod watcher;
pub mod watchers;
pub mod ws_client;
