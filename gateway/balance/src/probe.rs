//! Active health: what a row of check results says about an endpoint.
//!
//! Owns the rise-and-fall machine. Checks only ever take away from what the EndpointSlice says.

/// Results in a row that turn the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes before an unhealthy endpoint serves again.
    pub rise: u8,
    /// Failures before a healthy endpoint is taken out.
    pub fall: u8,
}

impl Default for Thresholds {
    /// Two up, two down: one lost SYN changes nothing, and with checks every second or two a dead endpoint is out within 4 s; the
    /// streams' own failures act sooner.
    fn default() -> Self {
        Self { rise: 2, fall: 2 }
    }
}

/// The verdict on one endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet: serves on the slice's word. The first result decides by itself.
    #[default]
    Unknown,
    /// Serves; so many failures in a row.
    Healthy {
        /// Below [`Thresholds::fall`].
        failures: u8,
    },
    /// Out; so many successes in a row.
    Unhealthy {
        /// Below [`Thresholds::rise`].
        successes: u8,
    },
}

impl Health {
    /// May serve.
    #[must_use]
    pub const fn usable(self) -> bool {
        !matches!(self, Self::Unhealthy { .. })
    }

    /// Takes in one result.
    #[must_use]
    pub const fn probed(self, ok: bool, thresholds: Thresholds) -> Self {
        match (self, ok) {
            (Self::Unknown | Self::Healthy { .. }, true) => Self::Healthy { failures: 0 },
            (Self::Unknown | Self::Unhealthy { .. }, false) => Self::Unhealthy { successes: 0 },
            (Self::Healthy { failures }, false) => {
                let failures = failures.saturating_add(1);
                if failures >= thresholds.fall {
                    Self::Unhealthy { successes: 0 }
                } else {
                    Self::Healthy { failures }
                }
            }
            (Self::Unhealthy { successes }, true) => {
                let successes = successes.saturating_add(1);
                if successes >= thresholds.rise {
                    Self::Healthy { failures: 0 }
                } else {
                    Self::Unhealthy { successes }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: Thresholds = Thresholds { rise: 2, fall: 3 };

    #[test]
    fn the_first_result_decides() {
        assert!(Health::default().usable());
        assert!(!Health::default().probed(false, T).usable());
        assert_eq!(Health::default().probed(true, T), Health::Healthy { failures: 0 });
    }

    proptest! {
        /// The verdict turns exactly when the last `fall` (or `rise`) results say so.
        #[test]
        fn turns_with_the_row_and_not_before(results in prop::collection::vec(any::<bool>(), 2..100)) {
            let mut health = Health::default();
            for (i, &ok) in results.iter().enumerate() {
                let before = health.usable();
                let unknown = i == 0;
                health = health.probed(ok, T);
                let row = |n: u8, want: bool| {
                    let n = usize::from(n);
                    i + 1 >= n && results[i + 1 - n..=i].iter().all(|&r| r == want)
                };
                if unknown {
                    prop_assert_eq!(health.usable(), ok);
                } else if before != health.usable() {
                    let turned = if before { row(T.fall, false) } else { row(T.rise, true) };
                    prop_assert!(turned);
                } else {
                    let due = if before { row(T.fall, false) } else { row(T.rise, true) };
                    prop_assert!(!due);
                }
            }
        }
    }
}
