//! A relay in front of a server that can hold what clients send. What it held reaches the server later, also after the
//! client has given up its connection.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

#[derive(Default)]
struct Gate {
    /// Connections with a lower number are held.
    held_below: Mutex<usize>,
    changed: Condvar,
}

pub struct Proxy {
    pub port: u16,
    gate: Arc<Gate>,
    connections: Arc<Mutex<usize>>,
}

impl Proxy {
    pub fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (own, gate) = (listener.local_addr().unwrap().port(), Arc::new(Gate::default()));
        let connections = Arc::new(Mutex::new(0));
        let (relayed, counted) = (Arc::clone(&gate), Arc::clone(&connections));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                let number = *counted.lock();
                *counted.lock() += 1;
                let (gate, from, to) = (
                    Arc::clone(&relayed),
                    client.try_clone().unwrap(),
                    server.try_clone().unwrap(),
                );
                thread::spawn(move || relay(from, to, |()| gate.pass(number)));
                thread::spawn(move || relay(server, client, |()| {}));
            }
        });
        Proxy { port: own, gate, connections }
    }

    /// Holds what the present connections send from now on.
    pub fn hold(&self) {
        *self.gate.held_below.lock() = *self.connections.lock();
    }

    /// Holds what all connections send from now on, later ones too.
    pub fn hold_all(&self) {
        *self.gate.held_below.lock() = usize::MAX;
    }

    /// Lets what was held go on to the server.
    pub fn release(&self) {
        *self.gate.held_below.lock() = 0;
        self.gate.changed.notify_all();
    }
}

impl Gate {
    fn pass(&self, number: usize) {
        let mut held_below = self.held_below.lock();
        self.changed.wait_while(&mut held_below, |held_below| number < *held_below);
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, before: impl Fn(())) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut bytes)
        && read > 0
    {
        before(());
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
