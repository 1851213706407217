//! What differs between Linux and macOS: memory figures, following the parent
//! process, folders. Everything that can be compiled on both sides is, and what
//! parses another program's output is a pure function with recorded outputs as tests.

pub mod allocator;
pub mod family;
pub mod footprint;
pub mod oom;
pub mod pressure;
pub mod read_ahead;

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use rustix::process::Signal;

use crate::units::ByteSize;

/// The share of the machine's memory that `memory: auto` takes where the device
/// has no figure of its own.
const AUTO_SHARE: f64 = 0.75;

/// What `memory: auto` means on this machine: on a Mac what Metal may wire, else
/// three quarters of the machine's memory or of the cgroup's limit.
/// Nothing where the system does not tell its memory.
pub fn automatic_budget() -> Option<ByteSize> {
    let total = machine_memory()?;
    Some(match wired_limit() {
        Some(megabytes) => metal_budget(total, megabytes),
        None => ByteSize((total.0 as f64 * AUTO_SHARE) as u64),
    })
}

/// Memory of the machine, or of the cgroup this process is in if that is less.
pub fn machine_memory() -> Option<ByteSize> {
    machine_figures().map(|figures| figures.total)
}

/// All memory, and what of it can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MachineFigures {
    total: ByteSize,
    free: ByteSize,
}

/// The machine's memory, or that of the cgroup this process is in if that is less.
fn machine_figures() -> Option<MachineFigures> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let machine = MachineFigures {
        total: ByteSize(system.total_memory()),
        free: ByteSize(system.available_memory()),
    };
    let limits = system.cgroup_limits();
    let limits = limits.filter(|limits| (1..machine.total.0).contains(&limits.total_memory));
    Some(limits.map_or(machine, |limits| {
        // Pages of files are not counted as taken: they are dropped when memory is short.
        let left = ByteSize(limits.total_memory.saturating_sub(limits.rss));
        MachineFigures {
            total: ByteSize(limits.total_memory),
            free: left.min(machine.free),
        }
    }))
}

/// Resident bytes of a process and all that descend from it; nothing if it is gone.
pub fn resident_family(process: u32) -> Option<ByteSize> {
    let own = resident_memory(process)?;
    let others = family::descendants(process);
    let others = others.into_iter().filter_map(resident_memory);
    Some(others.fold(own, ByteSize::saturating_add))
}

/// Resident bytes of a process; nothing if it is gone.
pub fn resident_memory(process: u32) -> Option<ByteSize> {
    use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
    let pid = Pid::from_u32(process);
    let mut system = System::new().ok()?;
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        true,
        ProcessRefreshKind::nothing().with_memory(),
    );
    system
        .process(pid)
        .map(|process| ByteSize(process.memory()))
}

/// macOS's `iogpu.wired_limit_mb`, as `sysctl -n` prints it; nothing elsewhere.
#[cfg(target_os = "macos")]
fn wired_limit() -> Option<u64> {
    let output = std::process::Command::new("/usr/sbin/sysctl")
        .args(["-n", "iogpu.wired_limit_mb"])
        .output()
        .ok()?;
    parse_sysctl_number(&String::from_utf8_lossy(&output.stdout)).or(Some(0))
}

#[cfg(not(target_os = "macos"))]
fn wired_limit() -> Option<u64> {
    None
}

/// One number as `sysctl -n` prints it.
#[cfg_attr(
    not(any(target_os = "macos", test)),
    expect(dead_code, reason = "compiled and tested everywhere")
)]
fn parse_sysctl_number(output: &str) -> Option<u64> {
    output.trim().parse().ok()
}

/// What Metal may wire: the limit set by the owner, or, when none is set (0), two
/// thirds of the memory up to 36 GiB and three quarters above. Source: the
/// values of `recommendedMaxWorkingSetSize` that users of Apple silicon report.
fn metal_budget(total: ByteSize, wired_limit_megabytes: u64) -> ByteSize {
    if wired_limit_megabytes > 0 {
        return ByteSize(wired_limit_megabytes.saturating_mul(1024 * 1024)).min(total);
    }
    const LARGE: u64 = 36 * 1024 * 1024 * 1024;
    if total.0 <= LARGE {
        ByteSize(total.0 / 3 * 2)
    } else {
        ByteSize(total.0 / 4 * 3)
    }
}

/// Sends this process a signal when its parent ends. On Linux by the parent-death signal,
/// which follows the thread that spawned; macOS has none, there the end of
/// standard input is what a worker goes by (and on Linux too, besides).
/// Answers false if the parent is already gone.
#[cfg(target_os = "linux")]
pub fn follow_parent(signal: Signal) -> bool {
    let parent = rustix::process::getppid();
    let asked = rustix::process::set_parent_process_death_signal(Some(signal));
    asked.is_ok() && parent.is_some() && rustix::process::getppid() == parent
}

/// See the Linux side.
#[cfg(not(target_os = "linux"))]
pub fn follow_parent(_signal: Signal) -> bool {
    rustix::process::getppid().is_some()
}

/// The folders of this program for one user.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Configuration: `$XDG_CONFIG_HOME/roundhouse`.
    pub config: PathBuf,
    /// State (keys, audit, ledgers): `$XDG_STATE_HOME/roundhouse`.
    pub state: PathBuf,
    /// Sockets: `$XDG_RUNTIME_DIR`, else the state folder.
    pub runtime: PathBuf,
    /// The hub's cache: `HF_HUB_CACHE`, else `HF_HOME/hub`, else the hub's default.
    pub hub_cache: PathBuf,
}

impl Folders {
    /// Reads the environment. XDG rules hold on macOS too, as users of command
    /// lines expect. Nothing if there is no home folder.
    pub fn from_environment() -> Option<Self> {
        let base = etcetera::base_strategy::Xdg::new().ok()?;
        let state = base
            .state_dir()
            .unwrap_or_else(|| base.home_dir().join(".local/state"))
            .join("roundhouse");
        Some(Self {
            config: base.config_dir().join("roundhouse"),
            runtime: base.runtime_dir().unwrap_or_else(|| state.clone()),
            state,
            hub_cache: hub_cache(base.home_dir(), |name| {
                std::env::var_os(name).map(PathBuf::from)
            }),
        })
    }

    /// What models were seen to hold, from run to run.
    pub fn ledger(&self) -> PathBuf {
        self.state.join("ledger.json")
    }

    /// Prompts that models will want again, from run to run.
    pub fn prompts(&self) -> PathBuf {
        self.state.join("prompts")
    }

    /// The control socket of a running server.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("roundhouse.sock")
    }
}

/// Where the hub's own client keeps its cache. Source: the environment variables
/// of huggingface_hub.
fn hub_cache(home: &Path, variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let folder = |name: &str| variable(name).filter(|value| !value.as_os_str().is_empty());
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .unwrap_or_else(|| home.join(".cache/huggingface/hub"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    #[test]
    fn metal_budget_follows_the_owner_or_the_size() {
        // Recorded: `sysctl -n iogpu.wired_limit_mb` prints 0 unless it was set.
        let check = |gib: u64, printed: &str, expected_gib: u64| {
            let limit = parse_sysctl_number(printed).expect("a number");
            let got = metal_budget(ByteSize(gib * GIB), limit);
            assert_eq!(got.0 / GIB, expected_gib, "{gib} GiB, limit {printed:?}");
        };
        check(16, "0\n", 10);
        check(24, "0\n", 16);
        check(64, "0\n", 48);
        check(128, "0\n", 96);
        check(64, "57344\n", 56);
        check(16, "32768\n", 16);
    }

    #[test]
    fn this_machine_has_memory_and_this_process_uses_some() {
        let total = machine_memory().expect("a figure");
        let own = resident_memory(std::process::id()).expect("own process");
        assert!(total.0 > 100_000_000, "{total}");
        assert!(own.0 > 0 && own < total);
        assert!(automatic_budget().expect("a figure") < total);
    }

    #[test]
    fn the_hub_cache_follows_its_variables() {
        let check = |set: &[(&str, &str)], expected: &str| {
            let got = hub_cache(Path::new("/home/me"), |name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value.into())
            });
            assert_eq!(got, PathBuf::from(expected));
        };
        check(&[], "/home/me/.cache/huggingface/hub");
        check(&[("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub");
        check(&[("HF_HOME", "/h")], "/h/hub");
        check(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/x")], "/x");
        check(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "")], "/h/hub");
    }
}
