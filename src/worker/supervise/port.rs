//! A free port for an engine, and whether whoever listens there is the engine. A port
//! is free until somebody takes it: whoever asks for one and hands it on is in a race,
//! which is noticed here and not prevented.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use crate::platform::family;

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Whether a port could be had now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Whether everybody who listens on a port descends from this process. Where the
/// system does not tell who listens, it is believed.
pub fn is_ours(port: u16) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let texts = tables
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok());
    let listening: HashSet<u64> = texts.flat_map(|text| listeners(&text, port)).collect();
    if listening.is_empty() {
        return true;
    }
    let mut own = HashSet::new();
    for process in family::descendants(std::process::id()) {
        own.extend(sockets(process));
    }
    listening.is_subset(&own)
}

/// The sockets that listen on a port, by their numbers, as `/proc/net/tcp` tells
/// (man 5 proc): address and state are hexadecimal, 0A is listening, and the number
/// is the tenth field.
fn listeners(text: &str, port: u16) -> Vec<u64> {
    let port = format!(":{port:04X}");
    let lines = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9)?.parse().ok())?
    });
    lines.collect()
}

/// The numbers of the sockets that a process holds.
fn sockets(process: u32) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/fd")) else {
        return Vec::new();
    };
    let links = entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let numbers = links.filter_map(|link| {
        let name = link.to_str()?.strip_prefix("socket:[")?;
        name.strip_suffix(']')?.parse().ok()
    });
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_as_the_kernel_writes_them() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31415 1 0000000000000000 100 0 0 10 0\n   \
             1: 0100007F:1F90 0100007F:D2C4 01 00000000:00000000 00:00000000 00000000  1000        0 27182 1 0000000000000000 20 4 30 10 -1\n";
        assert_eq!(listeners(text, 8080), [31415]);
        assert!(listeners(text, 80).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_port_of_somebody_else_is_not_ours() {
        let port = free().expect("a port");
        assert!(is_free(port) && is_ours(port), "nobody listens");
        // This process is no descendant of itself.
        let _stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("bound");
        assert!(!is_free(port) && !is_ours(port));
    }
}
