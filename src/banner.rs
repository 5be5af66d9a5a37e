//! What the server says on standard output when it is ready: one `name: value` a line, for people and for programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::app::App;
use crate::conf::Config;
use crate::edge::web::DEMO_PAGE;
use crate::services::decode::decoder_has_assembly;

/// The banner of a running server.
#[must_use]
pub fn text(app: &App, config: &Config, demo: bool) -> String {
    let mut text = format!("Stillcast {}\n", env!("CARGO_PKG_VERSION"));
    for door in app.doors() {
        text += &format!("{}: {}  ({})\n", door.name, url(door.scheme, door.address), door.serves);
    }
    text += &format!("media: udp {}-{}\n", config.media_port_from, config.media_port_to);
    if let Some(http) = app.doors().iter().find(|door| door.name == "http") {
        let base = url("http", http.address);
        let stream = if demo { "test" } else { "STREAM" };
        text += &format!("streams: {base}/\n");
        text += &format!("page: {base}{DEMO_PAGE}\n");
        text += &format!("snapshot: curl -fo {stream}.png {base}/snapshots/{stream}.png\n");
        text += &format!(
            "rest: curl -s -H 'Content-Type: application/json' -d '{{\"streamName\":\"{stream}\"}}' \
             {base}/rest-api/stream/snapshot | cut -d'\"' -f4 | base64 -d > {stream}.png\n"
        );
    }
    text += if decoder_has_assembly() {
        "decoder: OpenH264 with assembly\n"
    } else {
        "decoder: OpenH264 without assembly, at half the speed (tools/install-build-deps installs nasm; then build again)\n"
    };
    text += "ready\n";
    text
}

/// An address that works in a browser on this machine: an unspecified one becomes the machine's own.
fn url(scheme: &str, address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("{scheme}://{}", SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_can_be_opened_on_this_machine() {
        assert_eq!(url("http", "0.0.0.0:8081".parse().unwrap()), "http://127.0.0.1:8081");
        assert_eq!(url("wss", "[::]:1".parse().unwrap()), "wss://[::1]:1");
        assert_eq!(url("ws", "10.0.0.7:80".parse().unwrap()), "ws://10.0.0.7:80");
    }
}
