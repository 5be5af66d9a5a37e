//! What end-to-end tests share: the server as a library and as a process, clients of each protocol.

pub mod process;
pub mod rest;
pub mod server;
pub mod site;
pub mod ws_client;
