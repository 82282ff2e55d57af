//! Receivers under TLS, in a process of their own: one port for each, because they share a
//! certificate and with it a name. A blocking thread serves each connection and answers every request
//! at once. The process is the bench itself, started with `--receive-tls`; it ends with the sender.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::receiver_process::ANSWER;
use super::{Outcome, Process};

const ENDPOINTS: usize = 200;
const PENDING_MAX: i32 = 4_096;
const STACK_BYTES: usize = 128 * 1024;

/// The receivers, as the sender sees them.
pub(crate) struct TlsReceivers {
    _process: Process,
    ports: Vec<u16>,
    /// The root that signed the certificate, in PEM.
    pub(crate) roots: String,
}

impl TlsReceivers {
    pub(crate) fn start() -> Outcome<TlsReceivers> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--receive-tls")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (to, from) = (child.stdin.as_mut(), child.stdout.take());
        let (to, from) = (to.ok_or("no stdin")?, from.ok_or("no stdout")?);
        writeln!(to, "{}{}\nEND", made.cert.pem(), made.signing_key.serialize_pem())?;
        let mut ports = String::new();
        BufReader::new(from).read_line(&mut ports)?;
        let ports = ports.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        Ok(TlsReceivers { _process: Process(child), ports, roots: made.cert.pem() })
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("https://localhost:{port}/hook")).collect()
    }
}

/// Receives until the process that started it closes its end.
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
    let mut ports = String::new();
    for _ in 0..ENDPOINTS {
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

/// Answers every request of a connection, which arrive one at a time.
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
