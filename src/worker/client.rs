//! HTTP to a worker over its socket.
