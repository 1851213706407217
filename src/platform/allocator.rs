//! What the C library's allocator keeps of memory that the program has freed. glibc returns by
//! itself only what lies free at the end of an arena, so after many requests at once it
//! would hold nearly all that they took (`malloc_trim(3)`); and what it returns costs a fault
//! and a cleared page when it is taken again (`mallopt(3)`). Other allocators are left alone.
//! Calls into the C library.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "declares functions of the C library")
)]

/// Has all threads take from one arena, which keeps what is freed, up to half a gigabyte, until
/// [`give_back`]. For a process in which one thread takes and frees most of all memory, in
/// large pieces, again and again. To be called before there are other threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed() {
    // Numbers of `malloc.h`.
    const TRIM_THRESHOLD: std::ffi::c_int = -1;
    const MMAP_THRESHOLD: std::ffi::c_int = -3;
    const ARENA_MAX: std::ffi::c_int = -8;
    // Beyond that a piece comes from the system and goes back to it: the most that may be set.
    const LARGEST_PIECE: std::ffi::c_int = 32 << 20;
    // Safe to call at any time, from any thread.
    unsafe extern "C" {
        safe fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
    }
    let settings = [
        (ARENA_MAX, 1),
        (MMAP_THRESHOLD, LARGEST_PIECE),
        (TRIM_THRESHOLD, 512 << 20),
    ];
    for (parameter, value) in settings {
        // What it refuses stays as it was.
        mallopt(parameter, value);
    }
}

/// What this system's allocator keeps is its own affair.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed() {}

/// Gives back whole pages that are free, of all threads. It locks one arena after the other
/// and takes milliseconds for each hundred megabytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // Safe to call at any time, from any thread.
    unsafe extern "C" {
        safe fn malloc_trim(kept: usize) -> std::ffi::c_int;
    }
    malloc_trim(0);
}

/// What this system's allocator gives back is its own affair.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
