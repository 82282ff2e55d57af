//! Host names in the form that DNS and HTTP carry (IDNA, UTS #46): `https://büro.example/` is stored, shown and called
//! as `https://xn--bro-hoa.example/`.

use std::borrow::Cow;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

/// The URL with its host name in ASCII; `None` for a name that DNS cannot carry, such as one with an empty label.
pub(super) fn with_ascii_host(url: &str) -> Option<Cow<'_, str>> {
    let Some((scheme, rest)) = url.split_once("://") else { return Some(Cow::Borrowed(url)) };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (format!("{user}@"), host),
        None => (String::new(), authority),
    };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, format!(":{port}")),
        None => (host, String::new()),
    };
    // An empty name and an IPv6 address are checked by `Target::new`.
    if name.is_empty() || name.starts_with('[') {
        return Some(Cow::Borrowed(url));
    }
    let (name, was_ascii) = (name.as_bytes(), name.is_ascii());
    let length = DnsLength::VerifyAllowRootDot;
    let name = Uts46::new().to_ascii(name, AsciiDenyList::URL, Hyphens::Allow, length).ok()?;
    if was_ascii {
        return Some(Cow::Borrowed(url));
    }
    Some(Cow::Owned(format!("{scheme}://{user}{name}{port}{path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn international_names_become_ascii() {
        for (given, expected) in [
            ("https://b\u{fc}ro.example/x", Some("https://xn--bro-hoa.example/x")),
            ("https://B\u{dc}RO.example:8443?a", Some("https://xn--bro-hoa.example:8443?a")),
            ("https://\u{4f8b}\u{5b50}.\u{6d4b}\u{8bd5}", Some("https://xn--fsqu00a.xn--0zwm56d")),
            ("https://fa\u{df}.example/", Some("https://xn--fa-hia.example/")),
            // A name that only looks like an address is one.
            ("https://\u{ff11}0\u{3002}0\u{3002}0\u{3002}1/", Some("https://10.0.0.1/")),
            ("https://crm.example/\u{e4}", Some("https://crm.example/\u{e4}")),
            ("crm.example/b\u{fc}ro", Some("crm.example/b\u{fc}ro")),
            ("https://u:p@b\u{fc}ro.example/", Some("https://u:p@xn--bro-hoa.example/")),
            ("https://b\u{fc} ro.example/", None),
            ("https://xn--\u{fc}.example/", None),
            // A label or a name that DNS cannot carry.
            ("http://a..b/", None),
            ("http://.a/", None),
            ("http://a../", None),
            ("http://a./", Some("http://a./")),
            ("http://-a_b-.example:8080/", Some("http://-a_b-.example:8080/")),
            ("http://Crm.example/", Some("http://Crm.example/")),
            ("http://[::1]:8080/", Some("http://[::1]:8080/")),
            ("http://10.0.0.1/", Some("http://10.0.0.1/")),
            ("http://a%20b/", None),
        ] {
            assert_eq!(with_ascii_host(given).as_deref(), expected, "{given}");
        }
        let (longest, longer) = ("a".repeat(63), "a".repeat(64));
        assert!(with_ascii_host(&format!("https://{longest}.example/")).is_some());
        assert!(with_ascii_host(&format!("https://{longer}.example/")).is_none());
        let name = [longest.as_str(); 4].join(".");
        assert!(with_ascii_host(&format!("https://{}", &name[2..])).is_some(), "253 characters");
        assert!(with_ascii_host(&format!("https://{name}")).is_none(), "255 characters");
    }
}
