//! Which sequences the next step works on. Pure.
