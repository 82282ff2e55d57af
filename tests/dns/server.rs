//! A DNS server at 127.0.0.1:53. It answers every name with an address of loopback, except names that begin with
//! `hanging`: it takes their questions and says nothing.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::thread;

static HANGING: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// How many names that hang were asked for.
pub fn hanging_asked() -> usize {
    HANGING.lock().unwrap().as_ref().map_or(0, HashSet::len)
}

/// Starts it, for as long as the process lives.
pub fn start() {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).unwrap();
            let question = &buffer[..length];
            let Some((name, question_ends)) = name(question) else { continue };
            if name.starts_with("hanging") {
                HANGING.lock().unwrap().get_or_insert_default().insert(name);
                continue;
            }
            let answer = answer(question, question_ends);
            let _ = socket.send_to(&answer, peer);
        }
    });
}

const HEAD_BYTES: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];

/// The name in a question, and where the question ends.
fn name(message: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (HEAD_BYTES, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at + 4)).filter(|(_, ends)| *ends <= message.len());
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).into_owned());
        at += length;
    }
}

/// One address for a question of type A, none for any other.
fn answer(message: &[u8], question_ends: usize) -> Vec<u8> {
    let has_address = message[question_ends - 4..question_ends - 2] == TYPE_A;
    let mut answer = message[..2].to_vec();
    // A response, recursion desired and available, no error; one question.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend(&message[HEAD_BYTES..question_ends]);
    if has_address {
        // The name of the question, type A, class IN, 60 s, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    answer
}
