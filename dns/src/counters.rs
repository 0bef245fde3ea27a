//! What the shim did, counted.
//!
//! Owns the figures; the names here are the metric names' last parts. Never resets. Written by the shells, read by admin.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hickory_proto::op::ResponseCode;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        /// Totals since the start.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct DnsTotals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn totals(&self) -> DnsTotals {
                DnsTotals { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl DnsTotals {
            /// Every counter with its name, for metrics.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Messages over UDP.
    udp,
    /// Messages over TCP.
    tcp,
    /// Messages that were no query and got no answer.
    dropped,
    /// Replies NOERROR, of our zones and relayed ones.
    noerror,
    /// Replies NXDOMAIN.
    nxdomain,
    /// Replies SERVFAIL.
    servfail,
    /// Replies with another code: malformed, not implemented, refused.
    refused,
    /// Replies that send the client to TCP.
    truncated,
    /// Questions sent to an upstream.
    forwarded,
    /// Questions that joined an equal one under way.
    joined,
    /// Attempts at an upstream that gave no usable answer.
    upstream_failed,
    /// Datagrams or messages from an upstream that were not the answer expected.
    upstream_mismatch,
    /// Questions refused because too many were under way.
    overloaded,
    /// TCP connections turned away because too many were open.
    connections_refused,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn reply(&self, code: ResponseCode, truncated: bool) {
        Self::add(match code {
            ResponseCode::NoError => &self.noerror,
            ResponseCode::NXDomain => &self.nxdomain,
            ResponseCode::ServFail => &self.servfail,
            _ => &self.refused,
        });
        if truncated {
            Self::add(&self.truncated);
        }
    }
}
