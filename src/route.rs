//! Which model a name means, and why. Total and pure.
