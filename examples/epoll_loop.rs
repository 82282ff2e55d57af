//! Decides how an event loop over epoll (kqueue elsewhere) embeds the engine: one thread, sockets, and
//! a waker that receipts and notices ring.
//!
//! Leaves to others: the load it is tried with (`bed`). Invariant: the loop waits in `poll` and nowhere
//! else. A receipt is polled, never waited for; what is not yet confirmed stays with whoever sent it,
//! who gets `ok` when it is on the device. Opening, subscribing and closing block, so they happen
//! before the loop and after it; a loop that subscribes while it runs gives that to another thread.
//!
//! ```sh
//! cargo run --release --example epoll_loop -- --seconds 10 --rate 20000 --data target
//! ```

mod bed;

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bed::{Figures, Load, Outcome, Receiver, Upstream};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Token};
use wabahook::{Engine, Error, Event, Notices, Receipt};

const LISTENER: Token = Token(0);
const BELL: Token = Token(1);
const FIRST_PEER: usize = 2;
/// How many bytes are read of one peer before the others have their turn.
const TURN_BYTES: usize = 64 * 1024;
/// How many events of a peer may wait for the device before no more is read of it.
const OPEN_MAX: usize = 4_096;
/// How long an event that was given back waits at most. Nothing rings when the queue has room again
/// that others had filled.
const BUSY_WAIT: Duration = Duration::from_millis(10);
const CLOSE_MAX: Duration = Duration::from_secs(10);

fn main() -> Outcome {
    let load = Load::from_arguments()?;
    let directory = bed::directory()?;
    let receiver = Receiver::start()?;
    let engine = bed::open(&directory, &receiver)?;

    let listener = TcpListener::bind("127.0.0.1:0".parse()?)?;
    let upstream = Upstream::start(listener.local_addr()?, load);
    let mut host = Host::new(engine.clone(), listener)?;
    host.run()?;

    let confirmed = upstream.end()?;
    let delivered = receiver.collect(load.events(), bed::END_MAX);
    host.figures.print("epoll_loop", delivered);
    engine.close(CLOSE_MAX)?;
    if confirmed == load.events() { Ok(()) } else { Err(format!("{confirmed} confirmed").into()) }
}

/// Rings the loop out of `poll`, from whichever thread of the engine. Ringing is one write of eight
/// bytes; rings that come before the loop looks are one.
struct Bell(mio::Waker);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It fails only when the loop's poll is gone, and then nobody is left to wake.
        let _ = self.0.wake();
    }
}

/// The loop.
struct Host {
    engine: Engine,
    poll: mio::Poll,
    listener: TcpListener,
    peers: HashMap<Token, Peer>,
    next_peer: usize,
    bell: Waker,
    notices: Notices,
    figures: Figures,
}

impl Host {
    fn new(engine: Engine, mut listener: TcpListener) -> Outcome<Host> {
        let poll = mio::Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let bell = Arc::new(Bell(mio::Waker::new(poll.registry(), BELL)?));
        let notices = engine.notices();
        let ringing = Arc::clone(&bell);
        engine.on_notice(move || ringing.wake_by_ref());
        Ok(Host {
            engine,
            poll,
            listener,
            peers: HashMap::new(),
            next_peer: FIRST_PEER,
            bell: Waker::from(bell),
            notices,
            figures: Figures::default(),
        })
    }

    /// Runs until the first peers have come and gone. A service would run for ever.
    fn run(&mut self) -> Outcome {
        let mut events = Events::with_capacity(256);
        let sleeps_before = bed::sleeps_of_this_thread();
        let (mut polls, mut seen) = (0, false);
        while !seen || !self.peers.is_empty() {
            let waits_for_room = self.peers.values().any(|peer| peer.held.is_some());
            match self.poll.poll(&mut events, waits_for_room.then_some(BUSY_WAIT)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                answer => answer?,
            }
            polls += 1;
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    BELL => self.tell(),
                    peer => self.peers.get_mut(&peer).into_iter().for_each(Peer::mark_ready),
                }
            }
            self.serve()?;
            seen |= !self.peers.is_empty();
        }
        let sleeps = bed::sleeps_of_this_thread().zip(sleeps_before);
        self.figures.slept_elsewhere =
            sleeps.map(|(after, before)| (after - before).saturating_sub(polls));
        Ok(())
    }

    fn accept(&mut self) -> Outcome {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let token = Token(self.next_peer);
                    self.next_peer += 1;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    self.poll.registry().register(&mut stream, token, interest)?;
                    self.peers.insert(token, Peer::new(stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells what happened. Reads what there is and does not wait.
    fn tell(&self) {
        while let Some(notice) = self.notices.try_next() {
            eprintln!("{notice:?}");
        }
    }

    /// Gives every peer turns until all have come to where they wait for somebody else. What is wrong
    /// with one peer ends that one; an engine that was closed or has failed ends the loop.
    fn serve(&mut self) -> wabahook::Result<()> {
        let mut context = Context::from_waker(&self.bell);
        let mut is_going_on = true;
        while is_going_on {
            is_going_on = false;
            for peer in self.peers.values_mut() {
                is_going_on |= peer.take(&self.engine, &mut self.figures)?;
                peer.confirm(&mut context)?;
                if let Err(error) = peer.answer() {
                    eprintln!("a peer is gone, and will send again what was not answered: {error}");
                    peer.is_broken = true;
                }
            }
        }
        self.peers.retain(|_, peer| !peer.is_done());
        Ok(())
    }
}

/// One connection: what was read of it, what waits for the device, and what is to be answered.
struct Peer {
    stream: TcpStream,
    /// Whether there may be more to read; the system tells it once.
    is_readable: bool,
    /// Whether everything that it sent was read.
    has_ended: bool,
    is_broken: bool,
    read: Vec<u8>,
    /// An event that the engine gave back. While there is one nothing is read, so that the sender
    /// notices.
    held: Option<(String, Event)>,
    /// Each with the id that the sender gave it, in the order published.
    open: VecDeque<(String, Receipt)>,
    answers: Vec<u8>,
}

impl Peer {
    fn new(stream: TcpStream) -> Peer {
        Peer {
            stream,
            is_readable: true,
            has_ended: false,
            is_broken: false,
            read: Vec::new(),
            held: None,
            open: VecDeque::new(),
            answers: Vec::new(),
        }
    }

    fn mark_ready(&mut self) {
        self.is_readable = true;
    }

    fn is_done(&self) -> bool {
        let is_idle = self.held.is_none() && self.open.is_empty() && self.answers.is_empty();
        self.is_broken || self.has_ended && self.read.is_empty() && is_idle
    }

    /// Publishes what is held and what was read, and reads on. True when there is more to do at once.
    fn take(&mut self, engine: &Engine, figures: &mut Figures) -> wabahook::Result<bool> {
        if let Some((id, event)) = self.held.take() {
            self.publish(engine, id, event, figures)?;
        }
        while self.held.is_none() && self.open.len() < OPEN_MAX && !self.is_broken {
            let Some(line) = self.next_line() else { return Ok(self.read_more()) };
            let id = line.split(' ').next().unwrap_or_default().to_owned();
            match bed::event(&line) {
                Some(event) => self.publish(engine, id, event, figures)?,
                None => self.say("refused", &id),
            }
        }
        Ok(false)
    }

    fn publish(
        &mut self,
        engine: &Engine,
        id: String,
        event: Event,
        figures: &mut Figures,
    ) -> wabahook::Result<()> {
        match figures.time(|| engine.publish(event)) {
            Ok(receipt) => self.open.push_back((id, receipt)),
            Err(error @ Error::Busy { .. }) => {
                self.held = error.into_events().pop().map(|event| (id, event));
                return Ok(());
            }
            Err(error @ (Error::Closed | Error::Poisoned { .. })) => return Err(error),
            // The event is wrong, and would be the next time, too.
            Err(_invalid) => self.say("refused", &id),
        }
        figures.published += 1;
        figures.is_ahead_by(self.open.len());
        Ok(())
    }

    fn next_line(&mut self) -> Option<String> {
        let end = self.read.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.read.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    /// Reads one chunk. True when something came.
    fn read_more(&mut self) -> bool {
        if !self.is_readable {
            return false;
        }
        let mut chunk = [0; TURN_BYTES];
        match self.stream.read(&mut chunk) {
            Ok(0) => (self.is_readable, self.has_ended) = (false, true),
            Ok(length) => self.read.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_readable = false,
            Err(_) => self.is_broken = true,
        }
        self.is_readable && !self.is_broken
    }

    /// Takes the receipts that have resolved. They resolve in the order published, so it is enough that
    /// the first one rings the bell.
    fn confirm(&mut self, context: &mut Context<'_>) -> wabahook::Result<()> {
        while let Some((id, receipt)) = self.open.front_mut() {
            let verdict = match Pin::new(receipt).poll(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(_accepted)) => "ok",
                // The sender sends it again: its dedup key makes that safe.
                Poll::Ready(Err(Error::Unknown { .. } | Error::Refused { .. })) => "again",
                Poll::Ready(Err(error)) => return Err(error),
            };
            let id = std::mem::take(id);
            self.open.pop_front();
            self.say(verdict, &id);
        }
        Ok(())
    }

    fn say(&mut self, verdict: &str, id: &str) {
        self.answers.extend_from_slice(format!("{verdict} {id}\n").as_bytes());
    }

    /// Writes what the socket takes now.
    fn answer(&mut self) -> std::io::Result<()> {
        while !self.answers.is_empty() {
            match self.stream.write(&self.answers) {
                Ok(length) => drop(self.answers.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
