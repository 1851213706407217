//! Gives back to the system what the C library's allocator keeps of memory that the program
//! has freed. glibc returns by itself only what lies free at the end of an arena, so after
//! many requests at once it would hold nearly all that they took (`malloc_trim(3)`). Other
//! allocators are left alone. One call into the C library.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "declares a function of the C library")
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

/// What this system's allocator gives back is its own affair.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
