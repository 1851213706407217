//! An engine that plays a file.
