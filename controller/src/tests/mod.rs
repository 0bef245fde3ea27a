//! Whole controllers in one process, joined by pipes where gateways would be.

mod catalogs;
mod hostile;
mod joining;
mod mortal;
mod rotating;
mod world;
