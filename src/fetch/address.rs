//! Which addresses are private, and which of them may be fetched from all the same.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::{Error, Result};

/// What is not for the public, by IANA's registries of special-purpose addresses: this network, private networks, shared
/// address space, loopback, link-local (with the metadata of clouds), protocol assignments, documentation, relays,
/// benchmarks, multicast, reserved, broadcast.
const PRIVATE_V4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// All of IPv6 that is given out to the public; what lies outside is private.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// What of it is not: protocol assignments (with Teredo), documentation, 6to4, documentation again.
const PRIVATE_V6: &[(Ipv6Addr, u8)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];
/// Addresses of IPv4 behind a translator: what counts is the one within.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Whether an address is not one of the public internet.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => PRIVATE_V4
            .iter()
            .any(|(network, length)| holds((*network).into(), *length, v4.into())),
        IpAddr::V6(v6) if holds(NAT64.0.into(), NAT64.1, v6.into()) => {
            let [.., high, low] = v6.segments();
            let bits = u32::from(high) << 16 | u32::from(low);
            is_private(Ipv4Addr::from_bits(bits).into())
        }
        IpAddr::V6(v6) => {
            let within =
                |(network, length): &(Ipv6Addr, u8)| holds((*network).into(), *length, v6.into());
            !within(&PUBLIC_V6) || PRIVATE_V6.iter().any(within)
        }
    }
}

fn holds(network: IpAddr, length: u8, address: IpAddr) -> bool {
    // To shift a number by its whole width is an error: a network of length 0 holds all of its kind.
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (network.to_bits() ^ address.to_bits())
                .checked_shr(32 - u32::from(length))
                .unwrap_or(0)
                == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits())
                .checked_shr(128 - u32::from(length))
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}

/// Which private addresses may be fetched from. None, unless said.
///
/// ```
/// use larder::fetch::AllowPrivate;
///
/// let allowed = AllowPrivate::these(["10.1.0.0/16", "::1", "intranet.example.com"])?;
/// assert!(allowed.allows("wiki.example.com", "10.1.2.3".parse()?));
/// assert!(allowed.allows("intranet.example.com", "192.168.0.7".parse()?));
/// assert!(!allowed.allows("wiki.example.com", "192.168.0.7".parse()?));
/// assert!(allowed.allows("wiki.example.com", "93.184.215.14".parse()?)); // it is public
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowPrivate {
    /// None.
    #[default]
    None,
    /// All: whoever can enqueue a job can then read what the worker's host can reach.
    All,
    /// Those of these networks, and of these hosts.
    These(Vec<Allowed>),
}

/// A network, or a host by its name.
///
/// ```
/// use larder::fetch::Allowed;
///
/// assert_eq!("10.0.0.0/8".parse::<Allowed>()?, Allowed::Network("10.0.0.0".parse().unwrap(), 8));
/// assert_eq!("::1".parse::<Allowed>()?.to_string(), "::1/128");
/// assert_eq!("intranet.example.com".parse::<Allowed>()?, Allowed::Host("intranet.example.com".to_owned()));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// All addresses whose first bits, so many, are those of this one.
    Network(IpAddr, u8),
    /// Whatever this name resolves to.
    Host(String),
}

impl AllowPrivate {
    /// These: each a network (`10.0.0.0/8`), an address, or the name of a host.
    ///
    /// # Errors
    /// Where one is none of them.
    pub fn these<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let texts = texts.into_iter();
        texts
            .map(str::parse)
            .collect::<Result<_>>()
            .map(Self::These)
    }

    /// Whether `address`, which `host` resolves to, may be fetched from: it is public, or among these.
    #[must_use]
    pub fn allows(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::None => !is_private(address),
            Self::These(allowed) => {
                !is_private(address) || allowed.iter().any(|one| one.holds(host, address))
            }
        }
    }
}

impl Allowed {
    fn holds(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::Network(network, length) => holds(*network, *length, address.to_canonical()),
            Self::Host(name) => name.eq_ignore_ascii_case(host.trim_end_matches('.')),
        }
    }
}

impl FromStr for Allowed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let network = text.split_once('/');
        let address: Option<IpAddr> = network.map_or(text, |(address, _)| address).parse().ok();
        let wrong = |why: &str| Err(Error::invalid(format!("{text:?} {why}")));
        let Some(address) = address else {
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            return if text.chars().all(is_name) && text.contains(|c: char| c.is_ascii_alphabetic())
            {
                Ok(Self::Host(text.trim_end_matches('.').to_owned()))
            } else {
                wrong("is no network (10.0.0.0/8), no address, and no name of a host")
            };
        };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = match network {
            Some((_, length)) => length.parse().ok().filter(|length| *length <= width),
            None => Some(width),
        };
        let Some(length) = length else {
            return wrong(&format!("has no length of 0 to {width} after its slash"));
        };
        if address != address.to_canonical() {
            return wrong("is one of IPv4, written as one of IPv6: write it as one of IPv4");
        }
        Ok(Self::Network(address, length))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address, length) => write!(f, "{address}/{length}"),
            Self::Host(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_of_the_public_internet_is_private() {
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.254",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.255.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn what_is_allowed_is_a_network_an_address_or_a_host() {
        let allows = |text: &str, host: &str, address: &str| {
            AllowPrivate::these([text])
                .unwrap()
                .allows(host, address.parse().unwrap())
        };
        assert!(allows("10.0.0.0/8", "a", "10.9.8.7") && !allows("10.0.0.0/8", "a", "192.168.0.1"));
        assert!(allows("10.0.0.0/8", "a", "::ffff:10.9.8.7") && !allows("10.0.0.0/8", "a", "::1"));
        assert!(allows("127.0.0.1", "a", "127.0.0.1") && !allows("127.0.0.1", "a", "127.0.0.2"));
        assert!(allows("0.0.0.0/0", "a", "192.168.0.1") && !allows("0.0.0.0/0", "a", "::1"));
        assert!(allows("::/0", "a", "fe80::1") && allows("fd00::/8", "a", "fd01::1"));
        assert!(
            allows("Host.Test.", "host.test", "10.0.0.1")
                && allows("host.test", "HOST.test.", "10.0.0.1")
        );
        assert!(!allows("host.test", "other.host.test", "10.0.0.1"));
        for (wrong, why) in [
            ("10.0.0.0/33", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.0/", "0 to 32"),
            ("host/8", "no network"),
            ("*.example.com", "no network"),
            ("10.0.0", "no network"),
            ("", "no network"),
            ("::ffff:10.0.0.1", "write it as one of IPv4"),
        ] {
            let error = AllowPrivate::these([wrong]).unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
