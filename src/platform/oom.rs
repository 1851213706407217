//! Whether the system ended a process for lack of memory. Linux counts that for
//! each memory cgroup: `oom_kill` in `memory.events` of version 2
//! (Documentation/admin-guide/cgroup-v2.rst) and in `memory.oom_control` of
//! version 1, whether the cgroup was full or the whole machine. Where there is no
//! such file, the count of the machine in `/proc/vmstat` stands in. macOS has no
//! such count.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const MOUNTED: &str = "/sys/fs/cgroup";

/// The count that a process is told in; nothing where the system counts nothing.
pub fn place(process: u32) -> Option<PathBuf> {
    let cgroups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let own = candidates(&cgroups).into_iter();
    let mut places = own.chain([PathBuf::from("/proc/vmstat")]);
    places.find(|place| count(place).is_some())
}

/// How many processes were ended, as one such file counts them.
pub fn count(place: &Path) -> Option<u64> {
    parse_count(&fs::read_to_string(place).ok()?)
}

/// The files for the cgroups of a process, as `/proc/PID/cgroup` names these. In
/// a container the paths may be those of the host, and its own is the root.
fn candidates(cgroups: &str) -> Vec<PathBuf> {
    let of = |folder: PathBuf, path: &str, name: &str| {
        let own = folder.join(path.trim_start_matches('/')).join(name);
        [own, folder.join(name)]
    };
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        if controllers
            .split(',')
            .any(|controller| controller == "memory")
        {
            let folder = Path::new(MOUNTED).join("memory");
            found.extend(of(folder, path, "memory.oom_control"));
        } else if controllers.is_empty() {
            found.extend(of(MOUNTED.into(), path, "memory.events"));
        }
    }
    found
}

/// The line `oom_kill`, which all three files have.
fn parse_count(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_where_the_kernel_keeps_them() {
        let check = |cgroups: &str, expected: &[&str]| {
            let got = candidates(cgroups);
            let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(got, expected, "{cgroups}");
        };
        check(
            "0::/user.slice/x.service\n",
            &[
                "/sys/fs/cgroup/user.slice/x.service/memory.events",
                "/sys/fs/cgroup/memory.events",
            ],
        );
        check(
            "5:cpu,cpuacct:/a\n4:memory:/docker/1\n",
            &[
                "/sys/fs/cgroup/memory/docker/1/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control",
            ],
        );
        check("", &[]);
        check("nonsense\n", &[]);
    }

    #[test]
    fn each_of_the_files_has_the_line() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(parse_count(text), expected);
        check("low 0\nhigh 0\nmax 2\noom 2\noom_kill 1\n", Some(1));
        check("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", Some(3));
        check("nr_free_pages 7\noom_kill 12\n", Some(12));
        check("nr_free_pages 7\n", None);
    }
}
