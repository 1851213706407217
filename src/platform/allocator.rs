//! What the C library's allocator keeps for itself. glibc returns by itself only what lies free
//! at the end of an arena, so after many requests at once it would hold nearly all that they
//! took (`malloc_trim(3)`); what it returns costs a fault and a cleared page when it is taken
//! again; and it makes arenas for eight times as many threads as can run, each with room and
//! holes of its own (`mallopt(3)`). Other allocators are left alone. Calls into the C library.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "declares functions of the C library")
)]

/// Gives back whole pages that are free, of all threads. It locks one arena after the other
/// and takes milliseconds for each hundred megabytes.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // Safe to call at any time, from any thread.
        unsafe extern "C" {
            safe fn malloc_trim(kept: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}

/// From now on no more arenas are made than threads can run at once. For the start of the
/// program: threads keep the arena they have.
pub fn limit_arenas() {
    if let Ok(threads) = std::thread::available_parallelism() {
        set(Setting::MostArenas, threads.get());
    }
}

/// Has all threads take from one arena, which keeps what is freed, up to half a gigabyte, until
/// [`give_back`]. For a process in which one thread takes and frees most of all memory, in
/// large pieces, again and again. To be called before there are other threads.
pub fn keep_freed() {
    set(Setting::MostArenas, 1);
    // Larger ones come from the system and go back to it. More may not be set.
    set(Setting::LargestPiece, 32 << 20);
    set(Setting::MostFree, 512 << 20);
}

/// What may be set, by its number in glibc's `malloc.h`.
#[derive(Clone, Copy)]
enum Setting {
    /// Bytes that may lie free at the end of an arena.
    MostFree = -1,
    /// Bytes of the largest piece that comes from an arena.
    LargestPiece = -3,
    /// How many arenas there may be.
    MostArenas = -8,
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set(setting: Setting, value: usize) {
    // Safe to call at any time, from any thread.
    unsafe extern "C" {
        safe fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
    }
    // What it refuses stays as it was.
    mallopt(
        setting as std::ffi::c_int,
        value.try_into().unwrap_or(std::ffi::c_int::MAX),
    );
}

/// How this system's allocator parts its memory is its own affair.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn set(_: Setting, _: usize) {}
