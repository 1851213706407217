//! The snapshot that a request sees, and its replacement as a whole.
