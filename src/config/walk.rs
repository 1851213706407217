//! From the tree to the configuration, all problems at once.
