//! What the C library's allocator keeps for itself. glibc returns by itself only what lies free
//! at the end of an arena, so after many requests at once it would hold nearly all that they
//! took (`malloc_trim(3)`), and it makes arenas for eight times as many threads as can run
//! (`mallopt(3)`), each with room and holes of its own. Other allocators are left alone. Two
//! calls into the C library.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "declares functions of the C library")
)]

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

/// From now on no more arenas are made than threads can run at once. For the start of the
/// program: threads keep the arena they have.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn limit_arenas() {
    /// The parameter's number in `malloc.h`.
    const M_ARENA_MAX: std::ffi::c_int = -8;
    // Safe to call at any time, from any thread.
    unsafe extern "C" {
        safe fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
    }
    if let Ok(threads) = std::thread::available_parallelism() {
        mallopt(
            M_ARENA_MAX,
            threads.get().try_into().unwrap_or(std::ffi::c_int::MAX),
        );
    }
}

/// How this system's allocator parts its memory is its own affair.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn limit_arenas() {}

/// What this system's allocator gives back is its own affair.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
