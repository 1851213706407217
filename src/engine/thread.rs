//! The thread that owns the network.
