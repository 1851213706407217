//! Who may do what: the access class of each route, keys, callers.
