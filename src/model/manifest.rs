//! What a snapshot holds, and whether it is complete.
