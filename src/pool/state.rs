//! The machine: events and a time in, effects out. Pure.
