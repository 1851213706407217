//! The management API: status, models, reload. It knows HTTP; it decides nothing.
