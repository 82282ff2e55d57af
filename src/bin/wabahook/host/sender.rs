//! The sender of a request: the address that it comes from, and what follows from a valid key of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::http::Extensions;

use crate::blocking::note_holder;
use crate::port::body_room::BodyHolder;
use crate::port::connections::{ClientConnection, KeyHolder};

/// The connection of a request is one of a known sender, and is kept in a crowd.
pub(crate) fn authenticated(extensions: &Extensions, holder: KeyHolder<'_>) {
    if let KeyHolder::Account(account) = holder {
        note_holder(BodyHolder::Account(account.to_owned()));
    }
    if let Some(connection) = extensions.get::<Arc<ClientConnection>>() {
        connection.authenticated(holder);
    }
}

/// The address of the client of a request that another host forwarded, in an extension of it.
#[derive(Clone, Copy)]
pub(crate) struct ForwardedFor(pub(crate) IpAddr);

/// The address that a request comes from, or that of the proxy in front.
pub(crate) fn remote(extensions: &Extensions) -> IpAddr {
    if let Some(ForwardedFor(client)) = extensions.get::<ForwardedFor>() {
        return *client;
    }
    let connection = extensions.get::<Arc<ClientConnection>>();
    connection.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |connection| connection.address)
}
