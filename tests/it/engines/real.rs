//! Engines that people run, in the pool beside the scripted one.
