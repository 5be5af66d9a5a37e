//! Under which addresses clients are told to reach a media socket.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// Most addresses in one answer. A machine with many containers has many bridges, and a browser checks every pair.
const CANDIDATES_MAX: usize = 16;

/// The addresses for the answer: the external ones where they are set, otherwise the one that the socket is bound to,
/// otherwise those of all interfaces. A socket for IPv4 has no use for addresses of IPv6; one for IPv6 that is bound to
/// no address is for both.
pub(crate) fn candidates(external: &[IpAddr], bound: SocketAddr) -> io::Result<Vec<SocketAddr>> {
    let addresses = if !external.is_empty() {
        external.to_vec()
    } else if !bound.ip().is_unspecified() {
        vec![bound.ip()]
    } else {
        usable(if_addrs::get_if_addrs()?.iter().map(if_addrs::Interface::ip), bound.ip())
    };
    Ok(addresses.into_iter().map(|address| SocketAddr::new(address, bound.port())).collect())
}

/// Addresses that a socket on `bound` hears, those that others can reach first, loopback last.
fn usable(addresses: impl Iterator<Item = IpAddr>, bound: IpAddr) -> Vec<IpAddr> {
    let mut usable: Vec<_> = addresses
        .filter(|address| (address.is_ipv4() || bound.is_ipv6()) && !is_link_local(*address))
        .collect();
    usable.sort_by_key(IpAddr::is_loopback);
    usable.dedup();
    // Loopback is never cut off: browsers on the same machine are how one tries the server.
    if usable.len() > CANDIDATES_MAX {
        usable.drain(CANDIDATES_MAX - 1..usable.len() - 1);
    }
    usable
}

/// Such an address needs the name of an interface to be of use, which an answer cannot say.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_addresses_win_over_a_bound_one_and_that_over_the_interfaces() {
        let external: Vec<IpAddr> = vec!["203.0.113.7".parse().unwrap()];
        let any = "0.0.0.0:31001".parse().unwrap();
        let told: SocketAddr = "203.0.113.7:31001".parse().unwrap();
        assert_eq!(candidates(&external, any).unwrap(), [told]);
        let bound: SocketAddr = "192.0.2.1:31001".parse().unwrap();
        assert_eq!(candidates(&[], bound).unwrap(), [bound]);
        assert!(candidates(&[], any).unwrap().contains(&"127.0.0.1:31001".parse().unwrap()));
    }

    #[test]
    fn loopback_comes_last_and_stays_when_there_are_too_many() {
        let mut all: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        all.push("169.254.3.3".parse().unwrap());
        all.extend((1..=40).map(|n| IpAddr::from([10, 0, 0, n])));
        let usable = usable(all.into_iter(), "0.0.0.0".parse().unwrap());
        assert_eq!(usable.len(), CANDIDATES_MAX);
        assert_eq!(usable[0], IpAddr::from([10, 0, 0, 1]));
        assert_eq!(usable[CANDIDATES_MAX - 1], IpAddr::from([127, 0, 0, 1]));
    }

    #[test]
    fn a_socket_for_both_families_tells_addresses_of_both() {
        let all: Vec<IpAddr> =
            ["127.0.0.1", "fe80::1", "2001:db8::1", "192.0.2.1"].map(|a| a.parse().unwrap()).into();
        let told = |bound: &str| usable(all.iter().copied(), bound.parse().unwrap());
        assert_eq!(told("::"), [all[2], all[3], all[0]]);
        assert_eq!(told("0.0.0.0"), [all[3], all[0]]);
    }
}
