//! The one owner of the pool's state.
