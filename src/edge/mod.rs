//! Sockets and threads: each client's thread drives a machine of `proto` and carries out what it says.

pub mod accept;
pub mod http;
pub mod ports;
pub mod pull;
pub mod rest;
pub mod rtc;
pub mod rtmp;
pub mod rtsp;
pub mod tls;
pub mod web;
pub mod whip;
pub mod ws;
