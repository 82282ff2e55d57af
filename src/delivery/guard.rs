//! Which addresses an attempt may reach: public ones, and the ranges that the host allows. The verdict is a
//! function of the address and the configuration. It names the rule and never the address, because an error
//! that shows what a name resolves to would map the host's network for anyone who may register.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use ipnet::{IpNet, Ipv6Net};

use crate::error::{Error, Result};
use crate::macros::word_enum;
use crate::network::Network;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Unspecified,
    ThisNetwork,
    Loopback,
    Private,
    LinkLocal,
    Cgnat,
    Multicast,
    Broadcast,
    Reserved,
    Documentation,
    Benchmarking,
    ProtocolAssignments,
    Metadata,
    UniqueLocal,
    SiteLocal,
    Discard,
    Nat64,
    SixToFour,
    Teredo,
    Mapped,
}

word_enum!(pub(crate) Rule:
    Unspecified = "unspecified", ThisNetwork = "this_network", Loopback = "loopback",
    Private = "private", LinkLocal = "link_local", Cgnat = "cgnat", Multicast = "multicast",
    Broadcast = "broadcast", Reserved = "reserved", Documentation = "documentation",
    Benchmarking = "benchmarking", ProtocolAssignments = "protocol_assignments",
    Metadata = "metadata", UniqueLocal = "unique_local", SiteLocal = "site_local",
    Discard = "discard", Nat64 = "nat64", SixToFour = "6to4", Teredo = "teredo",
    Mapped = "v4_mapped",
);

/// Admits or refuses what an attempt wants to reach.
#[derive(Debug)]
pub(crate) struct Guard {
    network: Network,
}

impl Guard {
    pub(crate) fn new(network: Network) -> Guard {
        Guard { network }
    }

    pub(crate) fn admit(&self, address: IpAddr) -> Result<(), Rule> {
        let address = self.without_nat64(address);
        if self.allows(address) {
            return Ok(());
        }
        match address {
            IpAddr::V4(v4) => refused_v4(v4).map_or(Ok(()), Err),
            IpAddr::V6(v6) => refused_v6(v6).map_or(Ok(()), Err),
        }
    }

    /// Whether a subscription to this URL may be registered: the scheme, and the address where the
    /// URL holds one. What a name stands for is checked by each attempt, because it may change.
    pub(crate) fn admit_url(&self, url: &Uri) -> Result<()> {
        self.admit_scheme(url)?;
        let refused = |expected: String| Err(Error::invalid("url", origin(url), expected));
        match host_of(url) {
            Host::Address(address) => self.admit(address).or_else(|rule| {
                let expected = "a public address, or one in a range that the host allows";
                refused(format!("{expected}; this one is {rule}"))
            }),
            Host::Ambiguous => refused(
                "a host name or a plain address such as 203.0.113.7 or [2001:db8::7]; other \
                 spellings of an address are read differently by different programs"
                    .to_owned(),
            ),
            Host::Name => Ok(()),
        }
    }

    fn admit_scheme(&self, url: &Uri) -> Result<()> {
        let refused = |expected: &str| Err(Error::invalid("url", origin(url), expected));
        match url.scheme_str() {
            Some("https") if cfg!(feature = "tls") => Ok(()),
            Some("https") => refused("an http:// URL: wabahook was built without the feature tls"),
            Some("http") if self.network.allow_http => Ok(()),
            _ => refused("an https:// URL; http:// has to be allowed by the host's configuration"),
        }
    }

    /// The v4 address that the network's NAT64 connects to, where it makes v6 addresses of v4 ones.
    fn without_nat64(&self, address: IpAddr) -> IpAddr {
        let IpAddr::V6(v6) = address else { return address };
        let prefix = self.network.nat64.iter().find(|prefix| prefix.contains(&v6));
        prefix.map_or(address, |prefix| IpAddr::V4(v4_below(prefix, v6)))
    }

    /// A v4 address written as v6 is reached as v4, so it is a v4 range that allows it, or a range
    /// that lies inside of the form; `::/0` means every v6 address and not these.
    fn allows(&self, address: IpAddr) -> bool {
        let inner = match address {
            IpAddr::V6(v6) => v4_inside(v6).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        self.network.allow.iter().any(|range| match (inner, range) {
            (Some(inner), IpNet::V4(_)) => range.contains(&inner),
            (Some(_), IpNet::V6(v6)) => v6.prefix_len() >= 96 && range.contains(&address),
            (None, _) => range.contains(&address),
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    Name,
    /// Programs read it as different addresses.
    Ambiguous,
}

/// Reads the host part of a URL as the resolver will.
pub(crate) fn host_of(url: &Uri) -> Host {
    classify_host(url.host().unwrap_or_default())
}

/// As [`host_of`], of the host alone.
pub(crate) fn classify_host(host: &str) -> Host {
    if let Some(literal) = host.strip_prefix('[') {
        let inner = literal.strip_suffix(']').unwrap_or(literal);
        return inner.parse().map_or(Host::Ambiguous, |v6| Host::Address(IpAddr::V6(v6)));
    }
    if let Ok(v4) = host.parse() {
        return Host::Address(IpAddr::V4(v4));
    }
    let last_label = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    let hexadecimal = last_label
        .strip_prefix("0x")
        .or_else(|| last_label.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let numeric = last_label.bytes().all(|b| b.is_ascii_digit());
    if numeric || hexadecimal || host.contains('%') { Host::Ambiguous } else { Host::Name }
}

/// The part of a URL that may be shown: its path and query can hold credentials.
fn origin(url: &Uri) -> String {
    format!("{}://{}", url.scheme_str().unwrap_or_default(), url.host().unwrap_or_default())
}

/// The special v4 ranges, the narrower before the wider: first address, prefix length, rule.
const REFUSED_V4: &[([u8; 4], u32, Rule)] = &[
    ([0, 0, 0, 0], 32, Rule::Unspecified),
    ([0, 0, 0, 0], 8, Rule::ThisNetwork),
    ([10, 0, 0, 0], 8, Rule::Private),
    ([100, 64, 0, 0], 10, Rule::Cgnat),
    ([127, 0, 0, 0], 8, Rule::Loopback),
    // A public address on paper; inside of Azure it is the machine's own control service.
    ([168, 63, 129, 16], 32, Rule::Metadata),
    ([169, 254, 0, 0], 16, Rule::LinkLocal),
    ([172, 16, 0, 0], 12, Rule::Private),
    ([192, 0, 0, 0], 24, Rule::ProtocolAssignments),
    ([192, 0, 2, 0], 24, Rule::Documentation),
    ([192, 88, 99, 0], 24, Rule::SixToFour),
    ([192, 168, 0, 0], 16, Rule::Private),
    ([198, 18, 0, 0], 15, Rule::Benchmarking),
    ([198, 51, 100, 0], 24, Rule::Documentation),
    ([203, 0, 113, 0], 24, Rule::Documentation),
    ([224, 0, 0, 0], 4, Rule::Multicast),
    ([255, 255, 255, 255], 32, Rule::Broadcast),
    ([240, 0, 0, 0], 4, Rule::Reserved),
];

/// The special v6 ranges, the narrower before the wider: first address, prefix length, rule.
const REFUSED_V6: &[([u16; 8], u32, Rule)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, Rule::Unspecified),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Rule::Loopback),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, Rule::Nat64),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Rule::Nat64),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, Rule::Discard),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Rule::Teredo),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Rule::Benchmarking),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Rule::ProtocolAssignments),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Rule::Documentation),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Rule::Documentation),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Rule::SixToFour),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Rule::UniqueLocal),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Rule::LinkLocal),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Rule::SiteLocal),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Rule::Multicast),
];

fn refused_v4(address: Ipv4Addr) -> Option<Rule> {
    let within = |first: [u8; 4], prefix: u32| {
        (address.to_bits() ^ Ipv4Addr::from(first).to_bits()).leading_zeros() >= prefix
    };
    REFUSED_V4.iter().find(|(first, prefix, _)| within(*first, *prefix)).map(|(_, _, rule)| *rule)
}

fn refused_v6(address: Ipv6Addr) -> Option<Rule> {
    if let Some(inner) = v4_inside(address) {
        return Some(refused_v4(inner).unwrap_or(Rule::Mapped));
    }
    let within = |first: [u16; 8], prefix: u32| {
        (address.to_bits() ^ Ipv6Addr::from(first).to_bits()).leading_zeros() >= prefix
    };
    let named = REFUSED_V6.iter().find(|(first, prefix, _)| within(*first, *prefix));
    // Only 2000::/3 has been assigned as global unicast.
    let global = within([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
    named.map(|(_, _, rule)| *rule).or((!global).then_some(Rule::Reserved))
}

/// The v4 address below a NAT64 prefix (RFC 6052, 2.2): its bits follow the prefix and leave out byte 8.
fn v4_below(prefix: &Ipv6Net, address: Ipv6Addr) -> Ipv4Addr {
    let first = usize::from(prefix.prefix_len() / 8);
    let octets = address.octets();
    let mut below =
        octets.iter().enumerate().filter(|(at, _)| *at >= first && (first > 8 || *at != 8));
    let mut next = || below.next().map_or(0, |(_, octet)| *octet);
    Ipv4Addr::new(next(), next(), next(), next())
}

/// The v4 address that a v4-mapped (`::ffff:a.b.c.d`), v4-translated (`::ffff:0:a.b.c.d`) or
/// v4-compatible (`::a.b.c.d`) address stands for. `::` and `::1` are addresses of their own.
fn v4_inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    let low = u32::try_from(bits & 0xffff_ffff).ok()?;
    match bits >> 32 {
        0xffff | 0xffff_0000 => Some(Ipv4Addr::from_bits(low)),
        0 if low > 1 => Some(Ipv4Addr::from_bits(low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow: &[&str], allow_http: bool) -> Guard {
        let allow = allow.iter().map(|range| range.parse().unwrap()).collect();
        Guard::new(Network { allow, allow_http, ..Network::default() })
    }

    fn check(address: &str, expected: &str) {
        let verdict = guard(&[], false).admit(address.parse().unwrap());
        let verdict = verdict.map_or_else(Rule::as_str, |()| "admitted");
        assert_eq!(verdict, expected, "{address}");
    }

    #[test]
    fn v4_addresses_are_judged_by_their_range_to_its_very_ends() {
        for (address, expected) in [
            ("0.0.0.0", "unspecified"),
            ("0.0.0.1", "this_network"),
            ("0.255.255.255", "this_network"),
            ("1.1.1.1", "admitted"),
            ("9.255.255.255", "admitted"),
            ("10.0.0.0", "private"),
            ("10.255.255.255", "private"),
            ("11.0.0.0", "admitted"),
            ("100.63.255.255", "admitted"),
            ("100.64.0.0", "cgnat"),
            ("100.100.100.200", "cgnat"),
            ("100.127.255.255", "cgnat"),
            ("100.128.0.0", "admitted"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("128.0.0.0", "admitted"),
            ("168.63.129.16", "metadata"),
            ("168.63.129.17", "admitted"),
            ("169.254.169.254", "link_local"),
            ("172.15.255.255", "admitted"),
            ("172.16.0.0", "private"),
            ("172.31.255.255", "private"),
            ("172.32.0.0", "admitted"),
            ("192.0.0.192", "protocol_assignments"),
            ("192.0.1.0", "admitted"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4"),
            ("192.168.0.0", "private"),
            ("192.168.255.255", "private"),
            ("192.169.0.0", "admitted"),
            ("198.17.255.255", "admitted"),
            ("198.18.0.0", "benchmarking"),
            ("198.19.255.255", "benchmarking"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.255", "documentation"),
            ("223.255.255.255", "admitted"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.254", "reserved"),
            ("255.255.255.255", "broadcast"),
        ] {
            check(address, expected);
        }
    }

    #[test]
    fn v6_addresses_are_judged_by_their_range_and_by_the_v4_inside() {
        for (address, expected) in [
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::2", "this_network"),
            ("::127.0.0.1", "loopback"),
            ("::8.8.8.8", "v4_mapped"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:a9fe:a9fe", "link_local"),
            ("::ffff:10.1.2.3", "private"),
            ("::ffff:8.8.8.8", "v4_mapped"),
            ("::ffff:0:127.0.0.1", "loopback"),
            ("64:ff9b::7f00:1", "nat64"),
            ("64:ff9b:1::1", "nat64"),
            ("64:ff9c::1", "reserved"),
            ("100::1", "discard"),
            ("2001::1", "teredo"),
            ("2001:2::1", "benchmarking"),
            ("2001:20::1", "protocol_assignments"),
            ("2001:200::1", "admitted"),
            ("2001:db8::1", "documentation"),
            ("2001:4860:4860::8888", "admitted"),
            ("2002:7f00:1::", "6to4"),
            ("2606:4700:4700::1111", "admitted"),
            ("3fff::1", "documentation"),
            ("3fff:1000::1", "admitted"),
            ("4000::1", "reserved"),
            ("5f00::1", "reserved"),
            ("fc00::1", "unique_local"),
            ("fd00:ec2::254", "unique_local"),
            ("fe80::1", "link_local"),
            ("febf::1", "link_local"),
            ("fec0::1", "site_local"),
            ("ff02::1", "multicast"),
        ] {
            check(address, expected);
        }
    }

    #[test]
    fn an_allowed_range_lifts_the_guard_for_itself_and_nothing_else() {
        for (allow, address, admitted) in [
            ("127.0.0.0/8", "127.0.0.1", true),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("127.0.0.0/8", "::1", false),
            ("127.0.0.0/8", "10.0.0.1", false),
            ("127.0.0.0/8", "::ffff:10.0.0.1", false),
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("::1/128", "::1", true),
            ("::1/128", "127.0.0.1", false),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "fd12::1", true),
            ("::/0", "::ffff:127.0.0.1", false),
            ("::ffff:0:0/96", "::ffff:127.0.0.1", true),
            ("0.0.0.0/0", "169.254.169.254", true),
        ] {
            let verdict = guard(&[allow], false).admit(address.parse().unwrap());
            assert_eq!(verdict.is_ok(), admitted, "{address} with {allow} allowed");
        }
    }

    #[test]
    fn a_nat64_address_is_judged_by_the_v4_address_in_it() {
        for (prefix, address, expected) in [
            ("64:ff9b::/96", "64:ff9b::8.8.8.8", "admitted"),
            ("64:ff9b::/96", "64:ff9b::127.0.0.1", "loopback"),
            ("64:ff9b::/96", "64:ff9b:1::8.8.8.8", "nat64"),
            ("2001:db8::/32", "2001:db8:808:808::", "admitted"),
            ("2001:db8::/32", "2001:db8:a00:1::", "private"),
            ("2001:db8:100::/40", "2001:db8:10a:1:2::", "private"),
            ("2001:db8:122::/48", "2001:db8:122:a01:2:300::", "private"),
            ("2001:db8:122:300::/56", "2001:db8:122:30a:0:102::", "private"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:7f:0:100::", "loopback"),
        ] {
            let network = Network::default().nat64([prefix.parse().unwrap()]);
            let verdict = Guard::new(network).admit(address.parse().unwrap());
            let verdict = verdict.map_or_else(Rule::as_str, |()| "admitted");
            assert_eq!(verdict, expected, "{address} below {prefix}");
        }
    }

    fn check_url(guard: &Guard, url: &str, expected: Option<&str>) {
        let verdict = guard.admit_url(&url.parse().unwrap());
        match (verdict, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(says)) => {
                assert_eq!(error.field(), Some("url"), "{url}");
                assert!(error.to_string().contains(says), "{url}: {error}");
                assert!(!error.to_string().contains("hidden"), "{error}");
            }
            (verdict, expected) => panic!("{url}: {verdict:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn spellings_of_an_address_are_judged_or_ambiguous() {
        let guard = guard(&[], true);
        for (url, expected) in [
            ("http://crm.example/hook?token=hidden", None),
            ("http://8.8.8.8/", None),
            ("http://[2606:4700:4700::1111]:8443/", None),
            ("http://crm.example./", None),
            ("http://1.2.3.4.example/", None),
            ("http://0x7f.example/", None),
            ("http://face.b00c/", None),
            ("http://127.0.0.1:9100/a?token=hidden", Some("loopback")),
            ("http://10.0.0.1/", Some("private")),
            ("http://169.254.169.254/latest", Some("link_local")),
            ("http://0.0.0.0/", Some("unspecified")),
            ("http://[::1]/", Some("loopback")),
            ("http://[::]/", Some("unspecified")),
            ("http://[::ffff:127.0.0.1]/", Some("loopback")),
            ("http://[::ffff:7f00:1]/", Some("loopback")),
            ("http://[0:0:0:0:0:ffff:0a00:0001]/", Some("private")),
            ("http://[::ffff:8.8.8.8]/", Some("v4_mapped")),
            ("http://[fe80::1]/", Some("link_local")),
            ("http://2130706433/", Some("spellings")),
            ("http://0x7f000001/", Some("spellings")),
            ("http://0X7F000001/", Some("spellings")),
            ("http://0x7f.1/", Some("spellings")),
            ("http://0x/", Some("spellings")),
            ("http://017700000001/", Some("spellings")),
            ("http://0177.0.0.1/", Some("spellings")),
            ("http://127.0.0.01/", Some("spellings")),
            ("http://127.1/", Some("spellings")),
            ("http://127.0.1/", Some("spellings")),
            ("http://127.0.0.1./", Some("spellings")),
            ("http://8.8.8.8./", Some("spellings")),
            ("http://127.0.0.256/", Some("spellings")),
            ("http://1.2.3.4.5/", Some("spellings")),
            ("http://crm.example.1/", Some("spellings")),
            ("http://crm.example.0x7f/", Some("spellings")),
            ("http://0/", Some("spellings")),
            ("http://crm..example../", Some("spellings")),
        ] {
            check_url(&guard, url, expected);
        }
    }

    #[test]
    fn the_scheme_stands_also_where_the_address_is_allowed() {
        let loopback = ["127.0.0.0/8"];
        check_url(&guard(&loopback, false), "http://127.0.0.1/", Some("https://"));
        check_url(&guard(&loopback, true), "http://127.0.0.1/", None);
        check_url(&guard(&[], false), "http://crm.example/", Some("https://"));
        check_url(&guard(&[], true), "http://127.0.0.1/", Some("loopback"));
        let over_tls = if cfg!(feature = "tls") { None } else { Some("feature tls") };
        check_url(&guard(&loopback, false), "https://127.0.0.1/", over_tls);
        check_url(&guard(&[], false), "https://crm.example/", over_tls);
    }
}
