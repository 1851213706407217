//! Which idle models go. Pure.
