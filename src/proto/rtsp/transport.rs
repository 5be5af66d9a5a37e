//! The `Transport` header (RFC 2326 section 12.39): how the packets of one track travel.
//!
//! Read here rather than by the `rtsp-types` crate, whose reader of this header refuses what cameras write and panics on
//! some quoted strings.

use std::fmt;

/// Most alternatives that are looked at in one header.
const ALTERNATIVES_MAX: usize = 8;

/// What is below RTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lower {
    /// Datagrams, RTP and RTCP on ports of their own.
    Udp,
    /// Interleaved with the messages.
    Tcp,
}

/// Which way media goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// From the server; what holds where nothing is said.
    Play,
    /// To the server.
    Record,
}

/// One alternative of the header. RTP and RTCP are pairs, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// What is below RTP.
    pub lower: Lower,
    /// To a group rather than to one.
    pub multicast: bool,
    /// Channels of the connection.
    pub interleaved: Option<(u8, u8)>,
    /// Ports of the client.
    pub client_ports: Option<(u16, u16)>,
    /// Ports of the server.
    pub server_ports: Option<(u16, u16)>,
    /// Where the server sends from, as written: an address or a name.
    pub source: Option<String>,
    /// Source of the packets that the server sends.
    pub ssrc: Option<u32>,
    /// Which way, where it is said.
    pub mode: Option<Mode>,
}

impl Transport {
    /// Unicast of this kind, nothing else said.
    #[must_use]
    pub fn new(lower: Lower) -> Self {
        Self {
            lower,
            multicast: false,
            interleaved: None,
            client_ports: None,
            server_ports: None,
            source: None,
            ssrc: None,
            mode: None,
        }
    }

    /// The alternatives of a header that are RTP without encryption, in order of preference. Alternatives and parameters
    /// that cannot be read are left out.
    #[must_use]
    pub fn parse(header: &str) -> Vec<Self> {
        header.split(',').take(ALTERNATIVES_MAX).filter_map(Self::parse_one).collect()
    }

    fn parse_one(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let lower = match parts.next()?.to_ascii_uppercase().as_str() {
            "RTP/AVP" | "RTP/AVP/UDP" | "RTP/AVPF" | "RTP/AVPF/UDP" => Lower::Udp,
            "RTP/AVP/TCP" | "RTP/AVPF/TCP" => Lower::Tcp,
            _ => return None,
        };
        let mut read = Self::new(lower);
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "multicast" => read.multicast = true,
                "interleaved" => {
                    read.interleaved = pair(value, |first: u8| first.checked_add(1)).or(read.interleaved);
                }
                "client_port" => read.client_ports = pair(value, |first: u16| first.checked_add(1)),
                "server_port" => read.server_ports = pair(value, |first: u16| first.checked_add(1)),
                "source" if !value.is_empty() => read.source = Some(value.to_owned()),
                "ssrc" => read.ssrc = u32::from_str_radix(value, 16).ok(),
                "mode" if value.eq_ignore_ascii_case("record") || value.eq_ignore_ascii_case("receive") => {
                    read.mode = Some(Mode::Record);
                }
                "mode" if value.eq_ignore_ascii_case("play") => read.mode = Some(Mode::Play),
                _ => {}
            }
        }
        Some(read)
    }
}

/// `a-b`, or `a` alone, which is followed by its neighbour.
fn pair<T: std::str::FromStr + Copy>(text: &str, next: impl Fn(T) -> Option<T>) -> Option<(T, T)> {
    match text.split_once('-') {
        Some((first, second)) => Some((first.trim().parse().ok()?, second.trim().parse().ok()?)),
        None => {
            let first = text.parse().ok()?;
            Some((first, next(first)?))
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.lower {
            Lower::Udp => "RTP/AVP",
            Lower::Tcp => "RTP/AVP/TCP",
        })?;
        f.write_str(if self.multicast { ";multicast" } else { ";unicast" })?;
        if let Some((rtp, rtcp)) = self.interleaved {
            write!(f, ";interleaved={rtp}-{rtcp}")?;
        }
        if let Some((rtp, rtcp)) = self.client_ports {
            write!(f, ";client_port={rtp}-{rtcp}")?;
        }
        if let Some((rtp, rtcp)) = self.server_ports {
            write!(f, ";server_port={rtp}-{rtcp}")?;
        }
        if let Some(source) = &self.source {
            write!(f, ";source={source}")?;
        }
        if let Some(ssrc) = self.ssrc {
            write!(f, ";ssrc={ssrc:08X}")?;
        }
        match self.mode {
            Some(Mode::Record) => f.write_str(";mode=record"),
            Some(Mode::Play) => f.write_str(";mode=\"PLAY\""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_write_is_read() {
        let ffmpeg = Transport::parse("RTP/AVP/TCP;unicast;interleaved=2-3;mode=record");
        let read =
            Transport { interleaved: Some((2, 3)), mode: Some(Mode::Record), ..Transport::new(Lower::Tcp) };
        assert_eq!(ffmpeg, [read]);
        let gstreamer = Transport::parse("RTP/AVPF, RTP/AVP;unicast;client_port=40000-40001;mode=\"PLAY\"");
        assert_eq!(gstreamer.len(), 2);
        assert_eq!(
            (gstreamer[1].client_ports, gstreamer[1].mode),
            (Some((40_000, 40_001)), Some(Mode::Play))
        );
        let spaced = Transport::parse(" rtp/avp/tcp ; unicast ; interleaved = 6 ");
        assert_eq!(spaced[0].interleaved, Some((6, 7)));
    }

    #[test]
    fn what_cannot_be_served_is_told_apart_and_nonsense_is_left_out() {
        assert!(Transport::parse("RTP/AVP;multicast;port=5000-5001")[0].multicast);
        assert!(Transport::parse("RTP/SAVP;unicast;client_port=1-2, RAW/RAW/UDP").is_empty());
        for odd in ["", ";;", "RTP/AVP;dest_addr=\"", "RTP/AVP;mode=\"", "RTP/AVP;interleaved=300-301"] {
            assert!(Transport::parse(odd).iter().all(|read| read.interleaved.is_none()), "{odd}");
        }
        assert_eq!(Transport::parse(&"RTP/AVP,".repeat(100)).len(), ALTERNATIVES_MAX);
    }

    #[test]
    fn an_answer_is_written_as_clients_expect_it() {
        let answer = Transport {
            client_ports: Some((5000, 5001)),
            server_ports: Some((31_000, 31_001)),
            ssrc: Some(0xAB),
            ..Transport::new(Lower::Udp)
        };
        let text = "RTP/AVP;unicast;client_port=5000-5001;server_port=31000-31001;ssrc=000000AB";
        assert_eq!(answer.to_string(), text);
        assert_eq!(Transport::parse(text), [answer]);
    }
}
