//! One atomic word per ready model: open, and how many leases.
