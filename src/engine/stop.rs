//! Stop strings across chunk borders. Pure.
