//! What a connection costs whose client does not do its part.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};

use super::*;
use crate::edge::accept::ConnectionLimits;
use crate::edge::ports::PortSettings;
use crate::hub::GopLimits;

const LIMIT: Duration = Duration::from_secs(60);

fn service(clock: &Clock) -> Acceptor {
    let metrics = Metrics::new();
    let server = ServerSettings {
        setup_limit: LIMIT,
        session_timeout: LIMIT,
        silence_limit: None,
        hold_back: Duration::from_millis(100),
        pixels_max: u64::MAX,
        product: "test".into(),
    };
    let settings = RtspSettings { server, write_limit: LIMIT, describe_limit: LIMIT };
    let ports = PortSettings {
        address: Ipv4Addr::LOCALHOST.into(),
        from: 0,
        to: 0,
        receive_buffer_bytes: 65_536,
        send_buffer_bytes: 65_536,
    };
    let registry = Registry::new(GopLimits { units: 10, bytes: 10_000 }, 10);
    let service =
        RtspService::new(settings, MediaPorts::new(ports), registry, metrics.clone(), clock.clone());
    let limits = ConnectionLimits { total: 10, per_address: 10 };
    service.listen("rtsp", "127.0.0.1:0".parse().unwrap(), Connections::new(limits, metrics)).unwrap()
}

#[test]
fn who_asks_without_reading_is_not_read_for_long() {
    // More than sockets and buffers hold of requests, less than what an endless reader takes in no time.
    const REQUESTS_BYTES: usize = 32 * 1024 * 1024;
    let clock = Clock::real();
    let acceptor = service(&clock);
    let mut client = TcpStream::connect(acceptor.address()).unwrap();
    client.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let requests = b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n".repeat(1000);
    let mut written = 0;
    while client.write_all(&requests).is_ok() {
        written += requests.len();
        assert!(written < REQUESTS_BYTES, "requests are taken though nobody reads the answers");
    }
    assert!(acceptor.stop(&clock, Duration::from_secs(5)));
}
