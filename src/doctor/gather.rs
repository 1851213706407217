//! The facts about a setup, found without changing anything: nothing is created,
//! and an address is listened on only for the moment that shows it is free.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getrlimit};

use super::{AddressFact, Facts, Kind, PathFact, Setup};
use crate::access::keys::{KeyRing, given};
use crate::config::locate::{self, LoadError};
use crate::config::{Config, Listen};
use crate::platform::{self, Folders};
use crate::registry::{Machine, MachineMemory, Registry};
use crate::server::tls::Certificate;
use crate::units::ByteSize;
use crate::worker::process::folder;

/// Everything, for the configuration that `flag` or the surroundings name.
pub fn facts(flag: Option<&Path>, scripted: bool, folders: &Folders) -> Facts {
    Facts {
        now: SystemTime::now(),
        descriptors: getrlimit(Resource::Nofile).maximum,
        state: path(&folders.state),
        free: free(&folders.state),
        control: path(&folders.control_socket()),
        runtime: path(&folders.runtime),
        workers: path(&folder::usual_parent()),
        engine: cfg!(feature = "mlx"),
        setup: setup(flag, scripted, folders),
    }
}

fn setup(flag: Option<&Path>, scripted: bool, folders: &Folders) -> Result<Setup, LoadError> {
    let file = locate::find(flag, folders)?;
    let config = locate::read(&file, folders).map_err(LoadError::Problems)?;
    let memory = MachineMemory {
        total: platform::machine_memory().unwrap_or_default(),
        auto: platform::automatic_budget().unwrap_or_default(),
    };
    let machine = Machine { memory, scripted };
    let addresses = addresses(&config);
    let certificate = Certificate::open(config.server.tls.as_ref()).err();
    let keys = given::read(|name| std::env::var_os(name))
        .and_then(|given| KeyRing::open(config.keys_file.clone(), given))
        .map(|ring| ring.load());
    let audit = path(&config.audit);
    let caches = config.cache.iter().map(|cache| path(cache)).collect();
    let registry = Registry::start(config, machine).map_err(LoadError::Problems)?;
    Ok(Setup {
        file: path(&file),
        snapshot: registry.load(),
        machine: memory,
        keys,
        audit,
        caches,
        certificate: certificate.map(|error| error.to_string()),
        addresses,
    })
}

/// What is at a path.
fn path(path: &Path) -> PathFact {
    let about = fs::metadata(path);
    let kind = match &about {
        Err(_) => Kind::Missing,
        Ok(about) if about.is_file() => Kind::File,
        Ok(about) if about.is_dir() => Kind::Folder,
        Ok(about) if about.file_type().is_socket() => {
            Kind::Socket(UnixStream::connect(path).is_ok())
        }
        Ok(_) => Kind::Other,
    };
    let may = |what| access(path, what).is_ok();
    PathFact {
        path: path.to_owned(),
        kind,
        mode: about.map_or(0, |about| about.permissions().mode() & 0o7777),
        readable: may(Access::READ_OK),
        writable: match kind {
            Kind::Missing => {
                access(existing(path), Access::WRITE_OK).is_ok() && existing(path).is_dir()
            }
            _ => may(Access::WRITE_OK),
        },
    }
}

/// The nearest folder above a path that exists.
fn existing(path: &Path) -> PathBuf {
    let mut above = path.ancestors().skip(1);
    let found = above.find(|folder| folder.symlink_metadata().is_ok());
    found.unwrap_or(Path::new("/")).to_owned()
}

/// Room on the disk under a path that may not exist yet.
fn free(path: &Path) -> Option<ByteSize> {
    let there = match path.exists() {
        true => path.to_owned(),
        false => existing(path),
    };
    let disk = statvfs(there).ok()?;
    Some(ByteSize(disk.f_bavail.saturating_mul(disk.f_frsize)))
}

fn addresses(config: &Config) -> Vec<AddressFact> {
    let of = |setting, listens: &[Listen]| {
        let facts = listens.iter().map(move |listen| AddressFact {
            setting,
            listen: listen.clone(),
            refused: refused(listen),
        });
        facts.collect::<Vec<_>>()
    };
    let mut addresses = of("server.listen", &config.server.listen);
    addresses.extend(of("server.management", &config.server.management));
    addresses
}

/// Why an address cannot be listened on now.
fn refused(listen: &Listen) -> Option<std::io::ErrorKind> {
    match listen {
        Listen::Tcp(address) => TcpListener::bind(address).err().map(|error| error.kind()),
        Listen::Unix(socket) => match path(socket).kind {
            Kind::Socket(true) => Some(std::io::ErrorKind::AddrInUse),
            Kind::Folder => Some(std::io::ErrorKind::IsADirectory),
            _ => None,
        },
    }
}
