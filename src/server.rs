//! Listeners, layers and drain. It does not know what the routes do.
