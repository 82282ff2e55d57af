//! Whether the other hosts count on this one, as the server's list of live hosts tells. A host that is not in it takes no
//! shards, and must not be sent requests while another one can answer.

use crate::store::{ClusterHost, ClusterView};

/// Whether the other hosts of a fleet count on this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetMembership {
    /// The server has not confirmed this host since it started.
    Joining,
    /// The other hosts count on it.
    Live,
    /// The server cannot be reached.
    Disconnected,
    /// The server answers but confirms no writes, for example because it waits for its standby.
    Unconfirmed,
    /// Another live process has the name of this host.
    NameTaken,
    /// Another live host has the address of this one.
    AddressTaken,
}

impl FleetMembership {
    /// What is wrong, in words for an operator; `None` where nothing is.
    pub fn problem(self) -> Option<&'static str> {
        match self {
            FleetMembership::Live => None,
            FleetMembership::Joining => {
                Some("the server of the store has not confirmed this host yet")
            }
            FleetMembership::Disconnected => Some("the server of the store cannot be reached"),
            FleetMembership::Unconfirmed => {
                Some("the server of the store confirms no writes: is its standby connected?")
            }
            FleetMembership::NameTaken => Some("another live process has the name of this host"),
            FleetMembership::AddressTaken => Some("another live host has the address of this host"),
        }
    }

    /// What follows after `self` when the server answers with this view.
    pub(super) fn after(self, (own_name, own_address): (&str, &str), view: &ClusterView) -> Self {
        let has = |is: &dyn Fn(&ClusterHost) -> bool| view.hosts.iter().any(is);
        match self {
            _ if has(&|host| host.is_own) => FleetMembership::Live,
            _ if has(&|host| host.name == own_name) => FleetMembership::NameTaken,
            _ if has(&|host| host.address == own_address) => FleetMembership::AddressTaken,
            FleetMembership::Joining => FleetMembership::Joining,
            _ => FleetMembership::Unconfirmed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(hosts: &[(&str, &str, bool)]) -> ClusterView {
        let host = |&(name, address, is_own): &(&str, &str, bool)| ClusterHost {
            name: name.to_owned(),
            address: address.to_owned(),
            is_own,
        };
        ClusterView { hosts: hosts.iter().map(host).collect(), leases: Vec::new() }
    }

    #[test]
    fn the_list_of_live_hosts_tells_the_membership() {
        use FleetMembership as Is;
        let other = ("host-b", "http://10.0.0.2", false);
        let cases = [
            (Is::Joining, vec![other], Is::Joining),
            (Is::Joining, vec![("host-a", "http://10.0.0.1", true), other], Is::Live),
            (Is::Live, vec![other], Is::Unconfirmed),
            (Is::Disconnected, vec![], Is::Unconfirmed),
            (Is::Joining, vec![("host-a", "http://10.0.0.9", false)], Is::NameTaken),
            (Is::Live, vec![("host-c", "http://10.0.0.1", false), other], Is::AddressTaken),
            (Is::NameTaken, vec![("host-a", "http://10.0.0.1", true)], Is::Live),
        ];
        for (before, hosts, expected) in cases {
            let after = before.after(("host-a", "http://10.0.0.1"), &view(&hosts));
            assert_eq!(after, expected, "{before:?} {hosts:?}");
            assert_eq!(after.problem().is_none(), after == Is::Live);
        }
    }
}
