//! The demo: three real clusters on this machine, told in steps that must hold.

mod family;
mod greeter;
mod load;
mod ports;
mod record;
mod request;

pub(crate) use family::{die_with, janitor};
pub(crate) use greeter::greeter;
