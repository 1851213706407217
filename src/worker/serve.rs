//! What runs inside a worker: HTTP in, engine out.
