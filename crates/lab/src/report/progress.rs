//! One line a step while the lab runs, with the time that is left.
//!
//! Owns the wording and the estimate, and reads no clock: the caller says how much time went by.

use std::time::Duration;

use super::figure::Throughput;

/// How far a run has come.
#[derive(Clone, Debug)]
pub struct Progress {
    total: usize,
    done: usize,
}

impl Progress {
    /// Nothing of `total` steps is done.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self { total, done: 0 }
    }

    /// Counts a step as done, `elapsed` after the first began, and returns its line.
    pub fn step(&mut self, what: &str, outcome: &str, elapsed: Duration) -> String {
        self.done += 1;
        let width = self.total.to_string().len();
        let left = self.left(elapsed).map_or("done".to_owned(), in_words);
        format!("[{:width$}/{}] {what:<41} {outcome:<26} | {left}", self.done, self.total)
    }

    /// The time left if each step to come takes the mean of those done; none at the end.
    #[must_use]
    pub fn left(&self, elapsed: Duration) -> Option<Duration> {
        let to_come = self.total.checked_sub(self.done).filter(|steps| *steps > 0)?;
        Some(elapsed.mul_f64(to_come as f64 / self.done.max(1) as f64))
    }
}

/// A throughput figure as a step's outcome: goodput, and its share of the limit where known.
#[must_use]
pub fn outcome(figure: &Throughput) -> String {
    let goodput = figure.braid.median().map_or("failed".to_owned(), |m| format!("{m:7.1} Mbit/s"));
    let reached = figure.reached_percent().map_or(String::new(), |r| format!("{r:5.1} %"));
    format!("{goodput}  {reached}")
}

fn in_words(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..90 => format!("about {seconds} s left"),
        seconds @ 90..5400 => format!("about {} min left", (seconds + 30) / 60),
        seconds => format!("about {:.1} h left", seconds as f64 / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_names_step_outcome_and_time_left() {
        let mut progress = Progress { total: 148, done: 11 };
        let line = progress.step(
            "eq  down  8 streams  IPv6  braid",
            "  187.3 Mbit/s   99 %",
            Duration::from_secs(74),
        );
        assert_eq!(
            line,
            "[ 12/148] eq  down  8 streams  IPv6  braid            187.3 Mbit/s   99 %      \
             | about 14 min left"
        );
    }

    #[test]
    fn estimate_follows_the_mean_of_steps_done() {
        let mut progress = Progress::new(4);
        assert!(progress.step("a", "", Duration::from_secs(60)).ends_with("about 3 min left"));
        assert!(progress.step("b", "", Duration::from_secs(70)).ends_with("about 70 s left"));
        progress.step("c", "", Duration::from_secs(80));
        assert!(progress.step("d", "", Duration::from_secs(90)).ends_with("| done"));
        assert_eq!(progress.left(Duration::from_secs(90)), None);
    }

    #[test]
    fn long_runs_are_told_in_hours() {
        assert_eq!(in_words(Duration::from_secs(9000)), "about 2.5 h left");
    }
}
