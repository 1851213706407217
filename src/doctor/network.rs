//! Addresses, sockets and descriptors: who could reach them, whether they are free. Pure.

use std::io::ErrorKind;

use super::{AddressFact, Facts, Finding, Kind, Setup};
use crate::access::keys::KeyClass;
use crate::config::Listen;

/// Fewer descriptors than this end in refused connections on an ordinary day.
const DESCRIPTORS: u64 = 1024;

/// Descriptors that are no client's: workers, files, listeners.
const OWN_DESCRIPTORS: u64 = 256;

/// The longest path of a Unix socket, bytes: `sun_path` less its final zero.
const LONGEST_SOCKET: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// What a worker's socket adds to the folder: `/roundhouse-12345678/12345678`.
const WORKER_SOCKET: usize = 29;

/// Mode bits that let somebody else put a socket in the place of ours.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// The limit of descriptors that this process may ask for.
pub fn descriptors(facts: &Facts) -> Option<Finding> {
    let limit = facts.descriptors?;
    let connections = match &facts.setup {
        Ok(setup) => setup.snapshot.config.server.limits.connections as u64,
        Err(_) => 0,
    };
    if limit < DESCRIPTORS {
        let message = format!("this process may open {limit} files and connections");
        let mend = format!("ulimit -Hn {}", connections + OWN_DESCRIPTORS);
        return Some(Finding::fault("descriptors", message).mend(mend));
    }
    (limit < connections + OWN_DESCRIPTORS).then(|| {
        let message = format!(
            "this process may open {limit} files and connections, fewer than the {connections} \
             of server.limits.connections"
        );
        Finding::note("descriptors", message)
    })
}

/// The control socket, and the folder of the workers' sockets.
pub fn sockets(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let control = &facts.control;
    let shown = control.path.display();
    if control.path.as_os_str().len() > LONGEST_SOCKET {
        let message = format!("{shown} is too long for a socket: at most {LONGEST_SOCKET} bytes");
        let fault = Finding::fault("control-socket-long", message);
        found.push(fault.mend("set XDG_RUNTIME_DIR to a shorter folder"));
    }
    match control.kind {
        Kind::Folder => {
            let message = format!("{shown} is a folder, and the control socket belongs there");
            found.push(Finding::fault("control-socket-blocked", message));
        }
        Kind::Socket(false) => {
            let message = format!("{shown} is left of a server that is gone; the next removes it");
            found.push(Finding::note("stale-socket", message));
        }
        _ => {}
    }
    let runtime = &facts.runtime;
    let shown = runtime.path.display();
    if !matches!(runtime.kind, Kind::Missing | Kind::Folder) || !runtime.writable {
        let message =
            format!("{shown} is no folder that can be written; the control socket belongs there");
        found.push(Finding::fault("runtime-folder-unwritable", message));
    }
    if runtime.mode & OTHERS_WRITE != 0 && runtime.mode & STICKY == 0 {
        let message =
            format!("{shown} may be written by others, who could replace the control socket");
        let fault = Finding::fault("runtime-folder-open", message);
        found.push(fault.mend(format!("chmod 700 {shown}")));
    }
    let workers = &facts.workers;
    let shown = workers.path.display();
    if workers.path.as_os_str().len() + WORKER_SOCKET > LONGEST_SOCKET {
        let message = format!("{shown} is too long for the sockets of workers, so no model loads");
        let fault = Finding::fault("worker-socket-long", message);
        found.push(fault.mend("set XDG_RUNTIME_DIR to a shorter folder"));
    } else if workers.kind != Kind::Folder || !workers.writable {
        let message = format!("{shown} is no folder that can be written, so no model loads");
        found.push(Finding::fault("worker-folder-unwritable", message));
    }
    found
}

/// Exposure, and addresses that are taken or not there.
pub fn addresses(facts: &Facts, setup: &Setup) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(
        setup
            .addresses
            .iter()
            .filter_map(|address| exposure(address, setup)),
    );
    found.extend(encryption(setup));
    let taken = |address: &&AddressFact| address.refused == Some(ErrorKind::AddrInUse);
    let all_taken = setup.addresses.iter().all(|address| taken(&address));
    let running = facts.control.kind == Kind::Socket(true);
    if running && all_taken {
        let message = "a server of this user is running on these addresses";
        found.push(Finding::note("server-running", message));
        return found;
    }
    if running {
        let message = format!(
            "a server of this user answers at {} and does not serve these addresses; \
             a second one has no control socket",
            facts.control.path.display()
        );
        found.push(Finding::fault("another-server", message));
    }
    found.extend(setup.addresses.iter().filter_map(refusal));
    found
}

/// An address that others can reach, without a key of its class.
fn exposure(address: &AddressFact, setup: &Setup) -> Option<Finding> {
    let (class, flag) = match address.setting {
        "server.listen" => (KeyClass::Inference, ""),
        _ => (KeyClass::Management, " --management"),
    };
    let has_key = setup.keys.as_ref().is_ok_and(|keys| keys.any(class));
    (is_reachable(address) && !has_key).then(|| {
        let message = format!(
            "{} is {}, which others can reach, and there is no {} key",
            address.setting,
            address.listen,
            class.as_str()
        );
        Finding::fault("exposed-without-key", message)
            .mend(format!("roundhouse keys new{flag}, or listen on 127.0.0.1"))
    })
}

/// Whether other machines can reach an address.
fn is_reachable(address: &AddressFact) -> bool {
    match &address.listen {
        Listen::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        _ => false,
    }
}

/// A certificate that cannot be used, or none where others can listen.
fn encryption(setup: &Setup) -> Option<Finding> {
    if let Some(reason) = &setup.certificate {
        return Some(Finding::fault("certificate", reason));
    }
    let reachable = setup
        .addresses
        .iter()
        .find(|address| is_reachable(address))?;
    let is_clear = setup.snapshot.config.server.tls.is_none();
    is_clear.then(|| {
        let message = format!(
            "{} is {}, and keys and texts cross the network in clear text",
            reachable.setting, reachable.listen
        );
        Finding::note("clear-text", message)
            .mend("set server.tls, or put a proxy with TLS in front")
    })
}

fn refusal(address: &AddressFact) -> Option<Finding> {
    let AddressFact {
        setting, listen, ..
    } = address;
    Some(match address.refused? {
        ErrorKind::AddrInUse => Finding::fault(
            "address-in-use",
            format!("{setting} is {listen}, which another program listens on"),
        )
        .mend("end the other program, or choose another port"),
        ErrorKind::AddrNotAvailable => Finding::fault(
            "address-not-here",
            format!("{setting} is {listen}, which is no address of this machine"),
        ),
        kind => Finding::fault("address-refused", format!("{setting} is {listen}: {kind}")),
    })
}
