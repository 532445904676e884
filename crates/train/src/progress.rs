//! What people see of a run: a bar within the epoch and a line after it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::callback::{Callback, EpochRecord, Flow, Plan, Scores, StepEvent};
use crate::error::Result;

/// How often the text beside the bar changes; more often costs time and cannot be read.
const REFRESH: Duration = Duration::from_millis(80);

/// Shows a run on the terminal: a bar on stderr while an epoch goes (loss, metrics, examples per
/// second, time left of the whole run) and a line on stdout when it is done. Where stderr is no
/// terminal there are only the lines.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    plan: Option<Plan>,
    started: Instant,
    refreshed: Instant,
    /// Batches and examples since the start of this process.
    batches: usize,
    samples: usize,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// A display that adapts to where stderr goes.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style =
                ProgressStyle::with_template("{prefix} {bar:24.cyan/dim} {pos}/{len}  {msg}")
                    .expect("the template is valid")
                    .progress_chars("━╸─");
            bar.set_style(style);
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            plan: None,
            started: now,
            refreshed: now,
            batches: 0,
            samples: 0,
        }
    }

    fn say(&self, line: &str) {
        // A reader that has gone, such as `head`, must not cost the run.
        let write = || {
            let _ = writeln!(std::io::stdout(), "{line}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Time until the last epoch is done, at the pace so far.
    fn left(&self, plan: &Plan, epoch: usize, batch: usize) -> Duration {
        let pace = self.started.elapsed().as_secs_f64() / self.batches.max(1) as f64;
        let batches = plan.epochs.saturating_sub(epoch) as f64 * plan.batches as f64
            + plan.batches.saturating_sub(batch) as f64;
        Duration::try_from_secs_f64(pace * batches).unwrap_or(Duration::MAX)
    }
}

impl<M: ?Sized> Callback<M> for Progress {
    fn start(&mut self, plan: &Plan, _history: &[EpochRecord]) -> Result<()> {
        self.plan = Some(plan.clone());
        self.started = Instant::now();
        if let Some(bar) = &self.bar {
            bar.set_length(plan.batches as u64);
        }
        Ok(())
    }

    fn step(&mut self, event: &StepEvent<'_>, _model: &M) -> Result<Flow> {
        self.batches += 1;
        self.samples += event.samples;
        let (Some(bar), Some(plan)) = (&self.bar, &self.plan) else {
            return Ok(Flow::Continue);
        };
        if self.refreshed.elapsed() < REFRESH && event.batch != 1 {
            return Ok(Flow::Continue);
        }
        self.refreshed = Instant::now();
        let rate = self.samples as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        bar.set_position(event.batch as u64);
        bar.set_prefix(count("epoch", event.epoch, plan.epochs));
        bar.set_message(format!(
            "{}  {}/s  {} left",
            scores("", event.running),
            thousands(rate),
            clock(self.left(plan, event.epoch, event.batch)),
        ));
        Ok(Flow::Continue)
    }

    fn epoch(&mut self, record: &EpochRecord, _model: &M) -> Result<Flow> {
        let epochs = self.plan.as_ref().map_or(record.epoch, |plan| plan.epochs);
        let mut line = format!(
            "{}  {}",
            count("epoch", record.epoch, epochs),
            scores("", &record.train)
        );
        if let Some(validation) = &record.validation {
            line += &format!("  {}", scores("val ", validation));
        }
        line += &format!(
            "  {}/s  {}{}",
            thousands(record.samples_per_second),
            duration(record.seconds),
            if record.best { "  *" } else { "" }
        );
        self.say(&line);
        Ok(Flow::Continue)
    }

    fn end(&mut self, _history: &[EpochRecord], _model: &M) -> Result<()> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        Ok(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // After an error too, the terminal is left clean.
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// "epoch  3/20", the number as wide as the last one.
fn count(what: &str, number: usize, of: usize) -> String {
    let width = of.to_string().len();
    format!("{what} {number:>width$}/{of}")
}

fn scores(prefix: &str, scores: &Scores) -> String {
    let mut text = format!("{prefix}loss {}", value("loss", scores.loss));
    for (name, metric) in &scores.metrics {
        text += &format!("  {prefix}{name} {}", value(name, *metric));
    }
    text
}

/// A metric for people: shares as per cent, the rest with four significant digits.
pub fn value(name: &str, value: f64) -> String {
    let share = ["accuracy", "precision", "recall", "f1", "top"];
    if share.iter().any(|word| name.contains(word)) {
        format!("{:.2}%", 100.0 * value)
    } else if value == 0.0 || (1e-3..1e5).contains(&value.abs()) {
        format!("{value:.4}")
    } else {
        format!("{value:.3e}")
    }
}

/// A whole number with its thousands set apart.
pub fn thousands(number: f64) -> String {
    if !number.is_finite() {
        return "?".into();
    }
    let sign = if number < 0.0 { "-" } else { "" };
    format!(
        "{sign}{}",
        fornax_nn::thousands(number.abs().round() as usize)
    )
}

/// A time in the unit that suits it.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", 1e3 * s),
        s if s < 60.0 => format!("{s:.1} s"),
        s => clock(Duration::from_secs_f64(s.min(1e12))),
    }
}

/// Minutes and seconds, with hours where there are any.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{:02}", seconds % 60)
    } else {
        format!("{minutes}:{:02}", seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(thousands(0.4), "0");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(f64::INFINITY), "?");
        assert_eq!(clock(Duration::from_secs(65)), "1:05");
        assert_eq!(clock(Duration::from_secs(3600 * 25 + 61)), "25:01:01");
        assert_eq!(value("accuracy", 0.97531), "97.53%");
        assert_eq!(value("loss", 0.25), "0.2500");
        assert_eq!(value("loss", 1e-7), "1.000e-7");
        assert_eq!(count("epoch", 3, 100), "epoch   3/100");
    }
}
