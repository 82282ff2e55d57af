//! TLS of the host itself: served with the certificate of the configuration, and with a new one without a restart.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::DEADLINE;
use crate::authority::{Authority, Pair};
use crate::host_process::{CONFIGURATION, HostDirectory, HostProcess};
use crate::support::wait_until;

fn write(place: &HostDirectory, pair: &Pair) {
    fs::write(place.path("cert.pem"), &pair.certificate).unwrap();
    fs::write(place.path("key.pem"), &pair.key).unwrap();
}

fn start(pair: &Pair) -> (HostDirectory, HostProcess) {
    let place = HostDirectory::new("");
    write(&place, pair);
    let files = ["cert.pem", "key.pem"].map(|name| place.path(name).display().to_string());
    let tls = format!("tls = {{ certificate = {:?}, key = {:?} }}\n", files[0], files[1]);
    fs::write(place.path("wabahook.toml"), format!("{tls}{CONFIGURATION}")).unwrap();
    let served = place.start();
    (place, served)
}

/// The response to `GET /healthz`, and the certificate that was shown.
fn ask(served: &HostProcess, trusted: &Authority) -> Result<(String, Vec<u8>), String> {
    let config = Arc::new(trusted.client_config());
    let name = ServerName::try_from("host.example").unwrap();
    let session = ClientConnection::new(config, name).unwrap();
    let stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut stream = StreamOwned::new(session, stream);
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let shown = stream.conn.peer_certificates().unwrap()[0].to_vec();
    Ok((answer, shown))
}

#[test]
fn the_host_serves_tls_and_takes_a_new_certificate() {
    let authority = Authority::new("the host's");
    let (first, second) =
        (authority.sign("host.example", |_| {}), authority.sign("host.example", |_| {}));
    let (place, served) = start(&first);
    let (answer, shown) = ask(&served, &authority).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(ask(&served, &Authority::new("another")).is_err());

    // A key of another certificate changes nothing.
    fs::write(place.path("key.pem"), &second.key).unwrap();
    served.send_signal("HUP");
    let log = || fs::read_to_string(place.path("stderr.log")).unwrap();
    assert!(wait_until(|| log().contains("nothing changes, because")), "{}", log());
    assert_eq!(ask(&served, &authority).unwrap().1, shown);

    write(&place, &second);
    served.send_signal("HUP");
    let is_new = || ask(&served, &authority).unwrap().1 != shown;
    assert!(wait_until(is_new), "the old certificate is still shown");
    assert!(!log().contains("PRIVATE KEY"));
    assert!(served.signal("TERM").success());
}

#[test]
fn a_client_without_tls_and_a_silent_one_stop_nobody() {
    let authority = Authority::new("the host's");
    let (_place, served) = start(&authority.sign("host.example", |_| {}));
    let mut plain = TcpStream::connect(served.address).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let silent = TcpStream::connect(served.address).unwrap();
    assert!(ask(&served, &authority).unwrap().0.starts_with("HTTP/1.1 200 OK"));
    drop((plain, silent));
}

#[test]
fn a_wrong_certificate_is_refused_at_start() {
    let place = HostDirectory::new("");
    fs::write(place.path("cert.pem"), "nothing").unwrap();
    let path = place.path("cert.pem").display().to_string();
    let tls = format!("tls = {{ certificate = {path:?}, key = {path:?} }}\n");
    fs::write(place.path("wabahook.toml"), format!("{tls}{CONFIGURATION}")).unwrap();
    let output = place.command().output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("tls.certificate") && told.contains("cert.pem"), "{told}");
}
