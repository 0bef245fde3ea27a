//! Whole controllers in one process, joined by pipes where gateways would be.

mod catalogs;
mod joining;
mod rotating;
mod world;
