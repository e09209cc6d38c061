//! The member's clock: milliseconds of Unix time at the start of the process, monotone from there.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use conclave_protocol::time::Time;

/// A clock that never goes back, whatever is done to the machine's.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: u64,
    start: Instant,
}

impl Clock {
    /// Starts at the machine's present time.
    pub fn start() -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            origin: millis(unix),
            start: Instant::now(),
        }
    }

    /// Now.
    pub fn now(&self) -> Time {
        Time(self.origin.saturating_add(millis(self.start.elapsed())))
    }

    /// How long it is until the deadline: nothing if it has passed, an hour if there is none.
    pub fn until(&self, deadline: Option<Time>) -> Duration {
        deadline.map_or(Duration::from_secs(3600), |deadline| {
            Duration::from_millis((deadline - self.now()).0)
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use conclave_protocol::time::Span;

    use super::*;

    #[test]
    fn a_passed_deadline_is_now() {
        let clock = Clock::start();
        assert_eq!(clock.until(Some(Time(0))), Duration::ZERO);
        assert!(clock.until(Some(clock.now() + Span(5000))) > Duration::from_secs(4));
        assert!(clock.now() >= clock.now().min(Time(1)));
    }
}
