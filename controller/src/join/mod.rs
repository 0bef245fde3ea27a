//! The join shell: carries the four messages of a join over a stream, and the decisions to records.
//!
//! Owns sessions, their bounds and their retries. What is proven, and who may use an invite, `strait_trust_bridge` decides; what
//! is written, and in which order, the engine does. Called by the engine.

mod attempts;
mod frame;
mod inviter;
mod invites;
mod joiner;
mod joins;
mod records;

pub(crate) use attempts::Attempts;
pub(crate) use inviter::{JoinDesk, serve};
pub(crate) use invites::Invites;
pub(crate) use joiner::{Ended, JoinerDesk, Retry, join_once};
pub(crate) use joins::{Joins, Running};
pub(crate) use records::{InviteRecord, JoinRecord, view_of};
