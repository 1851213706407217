//! The permission to use a model.
