//! The fence: from which hosts and addresses streams may be pulled.
//!
//! Addresses of sources come from callers, so a caller could make this server speak to machines that only it can reach. What
//! counts is therefore the address that is connected to, after the one lookup that there is; a name alone proves nothing. The
//! rules belong here; looking names up and connecting belongs to `super::connect`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// A rule of `pull_allow` or `pull_deny` that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule:?} is no host name, address or network")]
pub struct RuleError {
    /// As it was written.
    pub rule: String,
}

/// The source may not be pulled from; who asked is not told which rule says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused by pull_deny, or not public and not in pull_allow")]
pub struct Refused;

/// What the operator allows and refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    allow: Rules,
    deny: Rules,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    /// Lower case, without a final dot. One that begins with a dot stands for all names that end so.
    names: Vec<String>,
    networks: Vec<IpNet>,
}

impl Fence {
    /// A fence of these rules: host names (`cam1.example`), all names below one (`*.example`), addresses, networks
    /// (`192.168.7.0/24`). `deny` is stronger than `allow`.
    ///
    /// # Errors
    /// When a rule is none of these: a rule that is passed over could leave a hole.
    pub fn new(allow: &[String], deny: &[String]) -> Result<Self, RuleError> {
        Ok(Self { allow: Rules::new(allow)?, deny: Rules::new(deny)? })
    }

    /// Whether a host is refused by its name alone, so that it need not be looked up.
    #[must_use]
    pub fn refuses_name(&self, host: &str) -> bool {
        self.deny.has_name(host)
    }

    /// Those of a host's addresses that may be connected to, in their order, IPv4 in its own form.
    ///
    /// # Errors
    /// When there is none.
    pub fn admit(&self, host: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Refused> {
        if self.refuses_name(host) {
            return Err(Refused);
        }
        let named = self.allow.has_name(host);
        let admitted: Vec<_> = addresses
            .iter()
            .map(IpAddr::to_canonical)
            .filter(|address| {
                let meant = embedded(*address);
                let denied =
                    self.deny.has_address(*address) || meant.is_some_and(|v4| self.deny.has_address(v4));
                !denied && (named || self.allow.has_address(*address) || is_public(*address))
            })
            .collect();
        if admitted.is_empty() { Err(Refused) } else { Ok(admitted) }
    }
}

impl Rules {
    fn new(rules: &[String]) -> Result<Self, RuleError> {
        let mut all = Self::default();
        for rule in rules {
            let error = || RuleError { rule: rule.clone() };
            let text = rule.trim();
            let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
            if let Ok(address) = bare.parse::<IpAddr>() {
                all.networks.push(address.to_canonical().into());
            } else if let Ok(network) = text.parse::<IpNet>() {
                all.networks.push(canonical(network));
            } else {
                all.names.push(name_rule(text).ok_or_else(error)?);
            }
        }
        Ok(all)
    }

    fn has_name(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.names.iter().any(|rule| if rule.starts_with('.') { host.ends_with(rule) } else { host == *rule })
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// A host name, or `*.` before one. What has only digits and dots is an address gone wrong.
fn name_rule(text: &str) -> Option<String> {
    let (below, name) = match text.strip_prefix("*.") {
        Some(name) => (".", name),
        None => ("", text),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let good = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let is_name = name.split('.').all(good) && name.chars().any(|c| c.is_ascii_alphabetic());
    is_name.then(|| format!("{below}{name}"))
}

/// A network of IPv4 in its mapped form (RFC 4291 section 2.5.5.2), in its own form.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok()).map_or(network, IpNet::V4)
}

/// The IPv4 address to which a translator takes an IPv6 address: NAT64 (RFC 6052 section 2.1), 6to4 (RFC 3056 section 2).
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let octets = v6.octets();
    let v4 = |at: usize| {
        let bytes: [u8; 4] = octets.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => v4(12),
        [0x2002, ..] => v4(2),
        _ => None,
    }
}

/// Whether everybody on the Internet could connect there too (IANA special-purpose address registries, RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded(address) {
            Some(meant) => is_public(meant),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        // "This network", private, shared (carrier-grade NAT), loopback, link-local.
        [0 | 10 | 127, ..] | [100, 64..=127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..]
        // IETF assignments, documentation, 6to4 relays, benchmarks.
        | [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _]
        // Multicast, reserved, broadcast.
        | [224..=255, ..]
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // IETF assignments (Teredo, benchmarks, ORCHID …), documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // All else that is assigned for everybody. Loopback, unspecified, unique local, link-local, site-local, multicast,
        // mapped and compatible forms are outside.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(allow: &[&str], deny: &[&str]) -> Fence {
        let owned = |rules: &[&str]| rules.iter().map(|rule| (*rule).to_owned()).collect::<Vec<_>>();
        Fence::new(&owned(allow), &owned(deny)).unwrap()
    }

    fn admits(fence: &Fence, host: &str, address: &str) -> bool {
        fence.admit(host, &[address.parse().unwrap()]).is_ok()
    }

    #[test]
    fn nothing_that_only_this_machine_can_reach_is_admitted_unless_it_is_listed() {
        let open = fence(&[], &[]);
        let all = fence(&["0.0.0.0/0", "::/0"], &[]);
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:c0a8:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!admits(&open, "cam", address), "{address}");
            assert!(admits(&all, "cam", address), "{address} is listed");
        }
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:200::1",
            "2606:4700::1",
            "2a00::1",
        ] {
            assert!(admits(&open, "cam", address), "{address}");
        }
    }

    #[test]
    fn the_address_that_is_given_back_is_the_one_to_connect_to() {
        let open = fence(&[], &[]);
        let given: Vec<IpAddr> =
            ["10.0.0.1", "::ffff:8.8.8.8", "::1", "2a00::1"].iter().map(|a| a.parse().unwrap()).collect();
        let admitted = open.admit("two-faced.example", &given).unwrap();
        assert_eq!(admitted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["8.8.8.8", "2a00::1"]);
        assert_eq!(open.admit("nowhere.example", &[]), Err(Refused));
    }

    #[test]
    fn networks_addresses_and_names_can_be_listed() {
        let listed =
            fence(&["192.168.7.0/24", "[fd00::7]", "Cam1.Example", "*.lan", "::ffff:10.1.0.0/112"], &[]);
        assert!(admits(&listed, "x", "192.168.7.9") && !admits(&listed, "x", "192.168.8.9"));
        assert!(admits(&listed, "x", "fd00::7") && !admits(&listed, "x", "fd00::8"));
        assert!(admits(&listed, "x", "10.1.2.3") && !admits(&listed, "x", "10.2.2.3"));
        assert!(admits(&listed, "cam1.example.", "10.9.9.9") && !admits(&listed, "cam2.example", "10.9.9.9"));
        assert!(admits(&listed, "A.LAN", "10.9.9.9") && !admits(&listed, "lan", "10.9.9.9"));
        assert!(!admits(&listed, "alan", "10.9.9.9"));
    }

    #[test]
    fn what_is_denied_stays_denied() {
        let denied =
            fence(&["0.0.0.0/0", "bad.example", "10.0.0.1"], &["10.0.0.0/8", "bad.example", "8.8.8.8"]);
        assert!(!admits(&denied, "x", "10.0.0.1"));
        assert!(!admits(&denied, "bad.example", "1.1.1.1") && denied.refuses_name("BAD.example."));
        for form in ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"] {
            assert!(!admits(&denied, "x", form), "{form}");
        }
        assert!(admits(&denied, "x", "8.8.4.4") && admits(&denied, "x", "127.0.0.1"));
    }

    #[test]
    fn a_rule_that_means_nothing_is_an_error_and_not_a_hole() {
        for rule in [
            "10.0.0.0/33",
            "10.0.0",
            "10.0.0.256",
            "a b",
            "",
            "http://x",
            "[::1",
            "-/8",
            "a..b",
            "*",
            "1.2.3.4-9",
        ] {
            let rules = [rule.to_owned()];
            assert!(Fence::new(&rules, &[]).is_err() && Fence::new(&[], &rules).is_err(), "{rule:?}");
        }
    }
}
