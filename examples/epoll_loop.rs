//! An event loop over epoll (kqueue elsewhere) that embeds the engine: one thread, sockets, and a waker
//! that receipts and notices use.
//!
//! The loop only waits in `poll`. Receipts are polled and never waited for. A sender keeps an event
//! until it gets `ok`, when the event is durable. Opening, subscribing and closing block, so they happen
//! before and after the loop; a loop that subscribes while it runs does so on another thread.
//!
//! ```sh
//! cargo run --release --example epoll_loop -- --seconds 10 --rate 20000 --data target
//! ```

mod support;

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Token};
use support::{Figures, Load, Outcome, Receiver, Upstream};
use wabahook::{Engine, Error, Event, Notices, PublishError, Receipt};

const LISTENER: Token = Token(0);
const BELL: Token = Token(1);
const FIRST_PEER: usize = 2;
/// How many bytes of one peer are read before the others get a turn.
const TURN_BYTES: usize = 64 * 1024;
/// How many events of a peer may wait for the device before its reading pauses.
const OPEN_MAX: usize = 4_096;
/// How long an event that was given back waits at most, because nothing wakes the loop when the queue
/// has room again.
const BUSY_WAIT: Duration = Duration::from_millis(10);
const CLOSE_MAX: Duration = Duration::from_secs(10);

fn main() -> Outcome {
    let load = Load::from_arguments()?;
    let directory = support::directory()?;
    let receiver = Receiver::start()?;
    let engine = support::open(&directory, &receiver)?;

    let listener = TcpListener::bind("127.0.0.1:0".parse()?)?;
    let upstream = Upstream::start(listener.local_addr()?, load);
    let mut host = Host::new(engine.clone(), listener)?;
    host.run()?;

    let confirmed = upstream.end()?;
    let delivered = receiver.collect(load.events(), support::END_MAX);
    host.figures.print("epoll_loop", delivered);
    engine.close(CLOSE_MAX)?;
    if confirmed == load.events() { Ok(()) } else { Err(format!("{confirmed} confirmed").into()) }
}

/// Wakes the loop in `poll`, from any thread of the engine, by one write of eight bytes. Several wakes
/// before the loop runs count as one.
struct Bell(mio::Waker);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It only fails when the loop has ended.
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

    /// Runs until the first peers have disconnected. A service would run for ever.
    fn run(&mut self) -> Outcome {
        let mut events = Events::with_capacity(256);
        let sleeps_before = support::sleeps_of_this_thread();
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
        let sleeps = support::sleeps_of_this_thread().zip(sleeps_before);
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

    /// Prints the notices that there are, without waiting.
    fn tell(&self) {
        while let Some(notice) = self.notices.try_next() {
            eprintln!("{notice:?}");
        }
    }

    /// Gives every peer turns until all of them wait. An error of a peer ends that peer. An engine that was
    /// closed or has failed ends the loop.
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

/// One connection: what was read, what waits for the device, and what to answer.
struct Peer {
    stream: TcpStream,
    /// Whether there may be more to read. The system reports it once.
    is_readable: bool,
    /// Whether everything was read.
    has_ended: bool,
    is_broken: bool,
    read: Vec<u8>,
    /// An event that the engine gave back. While there is one, nothing is read, so that the sender slows
    /// down.
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

    /// Publishes what is held and what was read, and reads more. True if there is more to do at once.
    fn take(&mut self, engine: &Engine, figures: &mut Figures) -> wabahook::Result<bool> {
        if let Some((id, event)) = self.held.take() {
            self.publish(engine, id, event, figures)?;
        }
        while self.held.is_none() && self.open.len() < OPEN_MAX && !self.is_broken {
            let Some(line) = self.next_line() else { return Ok(self.read_more()) };
            let id = line.split(' ').next().unwrap_or_default().to_owned();
            match support::event(&line) {
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
            Err(error) if error.is_busy() => {
                self.held = error.into_events().pop().map(|event| (id, event));
                return Ok(());
            }
            Err(PublishError {
                error: error @ (Error::Closed | Error::Poisoned { .. }), ..
            }) => {
                return Err(error);
            }
            // The event is invalid and would be refused again.
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

    /// Reads one chunk. True if something arrived.
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

    /// Takes the receipts that have resolved. They resolve in publish order, so only the first one needs to
    /// wake the loop.
    fn confirm(&mut self, context: &mut Context<'_>) -> wabahook::Result<()> {
        while let Some((id, receipt)) = self.open.front_mut() {
            let verdict = match Pin::new(receipt).poll(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(_accepted)) => "ok",
                // The sender sends it again, which its dedup key makes safe.
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

    /// Writes as much as the socket accepts now.
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
