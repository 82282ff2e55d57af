//! Decides how a receiver in a process of its own behaves: it answers every request at once, in the
//! clear on one port and under TLS on another, whichever address of loopback it is reached at.
//!
//! Leaves to others: what is sent to it. Invariant: it does as little as HTTP allows, so that what is
//! measured is the sender; it ends with the process that started it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{Outcome, Process};

/// The option that makes a process of the bench a receiver.
pub(crate) const OPTION: &str = "receive";

/// How every request is answered.
pub(crate) const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

const TLS_ENDPOINTS: usize = 200;
const PENDING_MAX: i32 = 4_096;
const STACK_BYTES: usize = 128 * 1024;

/// A receiver in another process.
pub(crate) struct Remote {
    _process: Process,
    plain: u16,
    tls: Vec<u16>,
    /// The authority that signed its certificate, in PEM.
    pub(crate) roots: String,
}

impl Remote {
    pub(crate) fn start() -> Outcome<Remote> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([format!("--{OPTION}"), "yes".to_owned()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (to, from) = (child.stdin.as_mut(), child.stdout.take());
        let (to, from) = (to.ok_or("no stdin")?, from.ok_or("no stdout")?);
        writeln!(to, "{}{}\nEND", made.cert.pem(), made.signing_key.serialize_pem())?;
        let mut ports = String::new();
        BufReader::new(from).read_line(&mut ports)?;
        let mut ports = ports.split_whitespace().map(str::parse);
        let plain = ports.next().ok_or("no ports")??;
        let _process = Process(child);
        Ok(Remote {
            _process,
            plain,
            tls: ports.collect::<Result<_, _>>()?,
            roots: made.cert.pem(),
        })
    }

    /// The address of the n-th endpoint, in the clear.
    pub(crate) fn plain(&self, n: usize) -> String {
        format!("http://127.1.{}.{}:{}/hook", n / 200, n % 200 + 1, self.plain)
    }

    /// The addresses of the endpoints under TLS: of one name, because they have one certificate.
    pub(crate) fn tls(&self) -> Vec<String> {
        self.tls.iter().map(|port| format!("https://localhost:{port}/hook")).collect()
    }

    /// A connection in the clear.
    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::new(127, 1, 0, 1), self.plain))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Is the receiver, until the process that started it closes its end.
pub(crate) fn receive() -> Outcome {
    let mut pem = String::new();
    for line in io::stdin().lines() {
        match line?.as_str() {
            "END" => break,
            line => pem += &format!("{line}\n"),
        }
    }
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let plain = listen(answer)?;
    let mut ports = plain.to_string();
    for _ in 0..TLS_ENDPOINTS {
        let config = Arc::clone(&config);
        let tls = listen(move |stream| {
            let session = ServerConnection::new(Arc::clone(&config)).ok()?;
            answer(StreamOwned::new(session, stream))
        })?;
        ports += &format!(" {tls}");
    }
    println!("{ports}");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn listen(serve: impl Fn(TcpStream) -> Option<()> + Send + Sync + 'static) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    rustix::net::listen(&listener, PENDING_MAX)?;
    let port = listener.local_addr()?.port();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            let _ = stream.set_nodelay(true);
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            let _ = thread.spawn(move || serve(stream));
        }
    });
    Ok(port)
}

/// Answers every request of a connection. They come one at a time.
fn answer(mut stream: impl Read + Write) -> Option<()> {
    let mut chunk = [0_u8; 16 * 1024];
    let mut length = 0;
    loop {
        length += stream.read(chunk.get_mut(length..)?).ok().filter(|length| *length > 0)?;
        if is_whole(chunk.get(..length)?) {
            length = 0;
            stream.write_all(ANSWER).ok()?;
            stream.flush().ok()?;
        }
    }
}

fn is_whole(read: &[u8]) -> bool {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let mut lines = read.get(..end).unwrap_or_default().split(|byte| *byte == b'\n');
    let length = lines.find_map(|line| line.strip_prefix(b"content-length: "));
    let length = length.and_then(|length| str::from_utf8(length).ok()?.trim().parse().ok());
    read.len() >= end + 4 + length.unwrap_or(0_usize)
}
