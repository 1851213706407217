//! The inference API: which paths there are and what each answers. It knows
//! HTTP and wire JSON; it does not know how models are kept.

pub mod error;
