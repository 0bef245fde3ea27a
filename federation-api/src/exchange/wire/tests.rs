//! Round trips, unknown bodies, and arbitrary bytes.
