//! Where a tunnel is in its life.
//!
//! Owns the phases and the facts they follow from. Pure.

/// Life of a tunnel as its users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Handshake done, the peer's hello is not here yet.
    Opening,
    /// Takes streams.
    Usable,
    /// One side is going away or a newer tunnel replaces it: running streams may end.
    Draining,
    /// Nothing was heard for too long.
    Suspect,
    /// Gone.
    Closed,
}

impl Phase {
    const ALL: [Self; 5] = [
        Self::Opening,
        Self::Usable,
        Self::Draining,
        Self::Suspect,
        Self::Closed,
    ];

    /// From its number; numbers come from [`Phase`] values only.
    pub(crate) fn from_number(number: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|phase| *phase as u8 == number)
            .unwrap_or(Self::Closed)
    }
}

/// Facts that together make the [`Phase`]; kept apart so that a suspect tunnel that is heard again goes back to where it was.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    pub(crate) hello: bool,
    pub(crate) draining: bool,
    pub(crate) suspect: bool,
    pub(crate) closed: bool,
}

impl Facts {
    pub(crate) const fn phase(self) -> Phase {
        match self {
            Self { closed: true, .. } => Phase::Closed,
            Self { suspect: true, .. } => Phase::Suspect,
            Self { draining: true, .. } => Phase::Draining,
            Self { hello: false, .. } => Phase::Opening,
            _ => Phase::Usable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_fact_decides_and_numbers_round_trip() {
        let hello = Facts {
            hello: true,
            ..Facts::default()
        };
        assert_eq!(Facts::default().phase(), Phase::Opening);
        assert_eq!(hello.phase(), Phase::Usable);
        assert_eq!(
            Facts {
                draining: true,
                ..hello
            }
            .phase(),
            Phase::Draining
        );
        assert_eq!(
            Facts {
                draining: true,
                suspect: true,
                ..hello
            }
            .phase(),
            Phase::Suspect
        );
        assert_eq!(
            Facts {
                suspect: true,
                closed: true,
                ..hello
            }
            .phase(),
            Phase::Closed
        );
        for phase in Phase::ALL {
            assert_eq!(Phase::from_number(phase as u8), phase);
        }
    }
}
