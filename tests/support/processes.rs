//! Processes of tests, which end with the test.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A process that is killed when this is dropped.
pub struct OwnedChild(pub Child);

impl OwnedChild {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines of an output as they come, each as `hear` returns it. A line that was cut by the end of its process is
/// not one of them.
pub fn lines_of<T: Send + 'static>(
    output: impl Read + Send + 'static,
    hear: impl Fn(String) -> T + Send + 'static,
) -> Receiver<T> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let (mut output, mut line) = (BufReader::new(output), String::new());
        while output.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
            line.pop();
            let _ = sender.send(hear(std::mem::take(&mut line)));
        }
    });
    lines
}
