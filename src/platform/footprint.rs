//! What a process holds of memory. On Linux the figures are those of `/proc/PID/status` (man 5 proc): anonymous
//! and shared memory and what of it was swapped out are `private`; pages of files
//! are `mapped`, because clean ones are dropped when memory is short and read
//! again. `smaps_rollup` would tell dirty file pages apart, of which a worker has
//! none, at the price of walking all page tables of the process under its lock.
//! On macOS the resident size stands for both, as `sysinfo` tells it. That it
//! comes near `phys_footprint` has not been verified there.

use super::family;
use crate::units::ByteSize;

/// What one process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// What cannot be had back while the process needs it.
    pub private: ByteSize,
    /// Pages of files.
    pub mapped: ByteSize,
    /// The most that `private` ever was, as near as the system tells.
    pub peak: ByteSize,
}

/// What a process and all that descend from it hold together; nothing if it is gone.
/// What they share counts for each: too much rather than too little.
pub fn of_family(process: u32) -> Option<Footprint> {
    let others = family::descendants(process);
    let others = others.into_iter().filter_map(of);
    Some(others.fold(of(process)?, Footprint::plus))
}

impl Footprint {
    fn plus(self, other: Self) -> Self {
        Self {
            private: self.private.saturating_add(other.private),
            mapped: self.mapped.saturating_add(other.mapped),
            peak: self.peak.saturating_add(other.peak),
        }
    }
}

/// What a process holds; nothing if it is gone.
#[cfg(target_os = "linux")]
pub fn of(process: u32) -> Option<Footprint> {
    parse_status(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

/// See the Linux side.
#[cfg(not(target_os = "linux"))]
pub fn of(process: u32) -> Option<Footprint> {
    let resident = super::resident_memory(process)?;
    Some(Footprint {
        private: resident,
        mapped: ByteSize::ZERO,
        peak: resident,
    })
}

/// `/proc/PID/status`. A process that has ended and was not reaped has no figures.
#[cfg_attr(
    not(any(target_os = "linux", test)),
    expect(dead_code, reason = "compiled and tested everywhere")
)]
fn parse_status(text: &str) -> Option<Footprint> {
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        let kilobytes = line.trim().strip_suffix(" kB")?;
        Some(kilobytes.trim().parse::<u64>().ok()?.saturating_mul(1024))
    };
    let swapped = bytes("VmSwap:").unwrap_or(0);
    let mapped = bytes("RssFile:")?;
    let private = bytes("RssAnon:")? + bytes("RssShmem:")? + swapped;
    // Of everything resident together; what was of files then is not told.
    let most = bytes("VmHWM:")?.saturating_sub(mapped) + swapped;
    Some(Footprint {
        private: ByteSize(private),
        mapped: ByteSize(mapped),
        peak: ByteSize(most.max(private)),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        let text = "Name:\troundhouse\nVmPeak:\t  903420 kB\nVmHWM:\t   60000 kB\n\
                    VmRSS:\t   50000 kB\nRssAnon:\t   30000 kB\nRssFile:\t   19000 kB\n\
                    RssShmem:\t    1000 kB\nVmSwap:\t     500 kB\nThreads:\t4\n";
        let kilobytes = |number: u64| ByteSize(number * 1024);
        let expected = Footprint {
            private: kilobytes(31_500),
            mapped: kilobytes(19_000),
            peak: kilobytes(41_500),
        };
        assert_eq!(parse_status(text), Some(expected));
        assert_eq!(parse_status("Name:\tsh\nState:\tZ (zombie)\n"), None);
    }

    /// Of another process: tests beside this one take and give back memory.
    #[test]
    fn a_process_holds_what_it_takes_and_remembers_the_most() {
        const TAKEN: u64 = 64 << 20;
        let script = format!(
            "taken = None; input(); taken = b'1' * {TAKEN}; print(flush=True); \
             input(); del taken; print(flush=True); open(0).read()"
        );
        let mut process = Command::new("python3")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut orders = process.stdin.take().expect("a pipe");
        let mut answers = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let mut step = || {
            writeln!(orders).expect("it reads");
            answers.next().expect("it answers").expect("a line");
            of(process.id()).expect("it runs")
        };
        let (with, without) = (step(), step());
        drop(orders);
        process.wait().expect("it ends");
        assert!(with.private.0 > TAKEN, "{with:?}");
        let given_back = with.private.saturating_sub(without.private);
        assert!(given_back.0 > TAKEN / 2, "{with:?} {without:?}");
        for footprint in [with, without] {
            // The two are not read at one moment.
            assert!(footprint.peak.0 > TAKEN, "{footprint:?}");
        }
    }
}
