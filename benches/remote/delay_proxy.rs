//! A proxy before a server that delays what passes, in both directions, as a network does: what is sent together arrives
//! together, however much is under way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::Outcome;

pub(crate) struct DelayProxy {
    port: u16,
}

impl DelayProxy {
    /// Begins to relay connections to a port of this machine.
    pub(crate) fn start(to: u16, delay: Duration) -> Outcome<DelayProxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let relayed = TcpStream::connect(("127.0.0.1", to))
                    .and_then(|server| relay_both(&client, &server, delay));
                if let Err(error) = relayed {
                    eprintln!("the proxy lost a connection: {error}");
                }
            }
        });
        Ok(DelayProxy { port })
    }

    /// How clients reach the server through it.
    pub(crate) fn connection(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable", self.port)
    }
}

fn relay_both(client: &TcpStream, server: &TcpStream, delay: Duration) -> std::io::Result<()> {
    for (from, to) in [(client, server), (server, client)] {
        to.set_nodelay(true)?;
        let (mut from, to, (sender, pieces)) = (from.try_clone()?, to.try_clone()?, channel());
        thread::spawn(move || {
            let mut bytes = vec![0; 256 * 1024];
            while let Ok(read) = from.read(&mut bytes)
                && let Some(piece) = bytes.get(..read).filter(|piece| !piece.is_empty())
            {
                let _ = sender.send((Instant::now() + delay, piece.to_vec()));
            }
        });
        thread::spawn(move || pass_on(&pieces, to));
    }
    Ok(())
}

/// Writes each piece when it is due.
fn pass_on(pieces: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, piece) in pieces {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
