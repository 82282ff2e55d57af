//! Reads strace's record: which calls on the watched directory began and ended when, and what the
//! process printed in between. A call that changes the directory and is not understood here is a
//! failure and never ignored.

use std::collections::HashMap;

/// What strace is asked to record: all that can change a file or make one durable.
pub const TRACED: &str = "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,\
    truncate,fallocate,copy_file_range,sendfile,fsync,fdatasync,sync_file_range,sync,syncfs,msync,\
    rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,\
    io_uring_setup";

/// One call, or one line of standard output.
#[derive(Debug)]
pub enum Call {
    Open {
        path: String,
        fd: u32,
        creates: bool,
        empties: bool,
        appends: bool,
    },
    /// Without an offset, at the position of the descriptor.
    Write {
        fd: u32,
        offset: Option<u64>,
        data: Vec<u8>,
    },
    Length {
        fd: u32,
        bytes: u64,
    },
    Sync {
        fd: u32,
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        path: String,
    },
    MakeDirectory {
        path: String,
    },
    Said(String),
    /// It changes nothing durable: it failed, is about another directory, or is `sync_file_range`.
    Nothing,
}

/// A call begins and ends, and others may begin or end in between.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    Begins(usize),
    Ends(usize),
}

/// Everything recorded, in order.
#[derive(Debug)]
pub struct Trace {
    pub calls: Vec<Call>,
    pub moments: Vec<Moment>,
}

impl Trace {
    /// Reads a record of calls below `root`.
    pub fn read(text: &str, root: &str) -> Trace {
        let mut texts: Vec<String> = Vec::new();
        let mut moments = Vec::new();
        let mut begun: HashMap<&str, usize> = HashMap::new();
        for line in text.lines() {
            let (thread, line) = line.split_once(' ').expect("a line begins with its thread");
            let line = line.trim_start();
            if line.starts_with("---") || line.starts_with("+++") {
                continue;
            }
            if let Some(rest) = line.strip_prefix("<... ") {
                let call = begun.remove(thread).expect("what is resumed was begun");
                texts[call].push_str(rest.split_once("resumed>").expect("it is resumed").1);
                moments.push(Moment::Ends(call));
                continue;
            }
            let call = texts.len();
            moments.push(Moment::Begins(call));
            if let Some(first) = line.strip_suffix("<unfinished ...>") {
                texts.push(first.to_owned());
                begun.insert(thread, call);
            } else {
                texts.push(line.to_owned());
                moments.push(Moment::Ends(call));
            }
        }
        let calls = texts.iter().map(|text| call(text, root)).collect();
        Trace { calls, moments }
    }
}

fn call(text: &str, root: &str) -> Call {
    let (name, rest) = text.split_once('(').expect("a call has arguments");
    // The record of a thread that ended within a call has nothing more.
    let Some((arguments, result)) = rest.rsplit_once(" = ") else { return Call::Nothing };
    let (result, _) = result.split_once([' ', '<']).unwrap_or((result, ""));
    let Ok(result) = result.parse::<u64>() else { return Call::Nothing };
    let arguments = arguments.trim_end().strip_suffix(')').expect("arguments end");
    let arguments: Vec<&str> = arguments.split(", ").map(str::trim_end).collect();
    let on_descriptor = arguments[0].split_once('<');
    let descriptor = on_descriptor.map(|(fd, path)| (fd, unescaped(path.trim_end_matches('>'))));
    let descriptor = descriptor.and_then(|(fd, path)| Some((fd.parse::<u32>().ok()?, path)));
    if let (Some((1, _)), "write") = (&descriptor, name) {
        return Call::Said(unescaped(unquoted(arguments[1])));
    }
    match descriptor {
        Some((fd, path)) if !name.ends_with("at") => {
            // A file without a name is gone with its last descriptor.
            let watched = path.starts_with(root) && !path.ends_with("(deleted)");
            let understood =
                if watched { on_file(name, fd, path, &arguments, result) } else { None };
            understood.unwrap_or_else(|| {
                assert!(!watched, "not understood: {}", &text[..text.len().min(200)]);
                Call::Nothing
            })
        }
        _ => on_path(name, &arguments, result, root),
    }
}

fn on_file(name: &str, fd: u32, path: String, arguments: &[&str], result: u64) -> Option<Call> {
    let number = |place: usize| arguments[place].parse::<u64>().expect("a number");
    Some(match name {
        "fsync" | "fdatasync" => Call::Sync { fd, path },
        "sync_file_range" => Call::Nothing,
        "ftruncate" => Call::Length { fd, bytes: number(1) },
        "write" | "pwrite64" => {
            let mut data = bytes(unquoted(arguments[1]));
            assert!(data.len() as u64 >= result, "strace cut the data of a write short");
            data.truncate(usize::try_from(result).expect("a length"));
            let offset = (name == "pwrite64").then(|| number(3));
            Call::Write { fd, offset, data }
        }
        _ => return None,
    })
}

fn on_path(name: &str, arguments: &[&str], result: u64, root: &str) -> Call {
    let quoted: Vec<&&str> = arguments.iter().filter(|one| one.starts_with('"')).collect();
    let beside =
        arguments[0].split_once('<').map(|(_, path)| unescaped(path.trim_end_matches('>')));
    let whole = |path: String| match &beside {
        Some(directory) if !path.starts_with('/') => format!("{directory}/{path}"),
        _ => path,
    };
    let mut paths = quoted.iter().map(|one| whole(unescaped(unquoted(one))));
    let path = paths.next().unwrap_or_default();
    let to = paths.next().unwrap_or_default();
    // A directory that is read for its names is opened by a path that ends so.
    let path = path.trim_end_matches('/').to_owned();
    if !path.starts_with(root) && !to.starts_with(root) {
        let all = ["sync", "io_uring_setup", "msync"];
        assert!(!all.contains(&name), "{name} is not understood");
        return Call::Nothing;
    }
    let flag = |flag: &str| arguments.iter().any(|one| one.split('|').any(|one| one == flag));
    match name {
        "openat" | "open" => Call::Open {
            path,
            fd: u32::try_from(result).expect("a descriptor"),
            creates: flag("O_CREAT"),
            empties: flag("O_TRUNC"),
            appends: flag("O_APPEND"),
        },
        "rename" | "renameat" | "renameat2" => Call::Rename { from: path, to },
        "unlink" | "unlinkat" | "rmdir" => Call::Remove { path },
        "mkdir" | "mkdirat" => Call::MakeDirectory { path },
        _ => panic!("{name} of {path} is not understood"),
    }
}

fn unquoted(argument: &str) -> &str {
    let text = argument.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    text.unwrap_or_else(|| panic!("strace cut a string short: {} bytes", argument.len()))
}

/// What strace writes as `\x41\x42`.
fn bytes(escaped: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    let four = escaped.as_bytes().as_chunks::<4>().0;
    four.iter().map(|[_, _, high, low]| digit(*high) << 4 | digit(*low)).collect()
}

/// The same for a name, which some versions of strace do not escape.
fn unescaped(text: &str) -> String {
    if text.starts_with("\\x") {
        return String::from_utf8(bytes(text)).expect("a name in UTF-8");
    }
    text.to_owned()
}
