//! What differs between Linux and macOS: memory figures, parent-gone detection, paths, service managers.
