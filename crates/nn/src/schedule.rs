//! Learning-rate schedules: pure functions from a step to a factor on the base learning rate.
//!
//! A schedule keeps no state, so resuming needs only the step number, and a recipe can name one
//! as data. What a step is (an optimizer step or an epoch) is the caller's choice.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the learning rate moves over the steps; see [`Schedule::factor`].
///
/// ```
/// use fornax_nn::Schedule;
/// let s = Schedule::cosine(100, 0.0).with_warmup(10);
/// assert_eq!(s.factor(5), 0.5);
/// assert_eq!(s.factor(10), 1.0);
/// assert!(s.factor(110) < 1e-12);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Always 1.
    #[default]
    Constant,
    /// `gamma^floor(step / every)`: PyTorch's `StepLR`.
    Step {
        /// Steps between two drops.
        every: u64,
        /// Factor of one drop.
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
    /// `gamma^(number of milestones at or before step)`: PyTorch's `MultiStepLR`.
    MultiStep {
        /// The steps at which the factor drops.
        milestones: Vec<u64>,
        /// Factor of one drop.
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
    /// `gamma^step`: PyTorch's `ExponentialLR`.
    Exponential {
        /// Factor of one step.
        gamma: f64,
    },
    /// From 1 to `end` along a straight line over `steps`, then `end`: PyTorch's `LinearLR` with
    /// `start_factor = 1`.
    Linear {
        /// Steps until `end` is reached.
        steps: u64,
        /// The final factor.
        #[serde(default)]
        end: f64,
    },
    /// `min + (1 - min) (1 + cos(pi step / steps)) / 2`, then `min`: PyTorch's
    /// `CosineAnnealingLR` with `eta_min = min * lr` (Loshchilov & Hutter 2017, "SGDR"), but
    /// staying down after `steps`.
    Cosine {
        /// Steps until `min` is reached.
        steps: u64,
        /// The final factor.
        #[serde(default)]
        min: f64,
    },
    /// A linear rise from `start` to 1 over `steps`, then another schedule from its step 0
    /// (Goyal et al. 2017, "Accurate, Large Minibatch SGD").
    Warmup {
        /// Steps until 1 is reached.
        steps: u64,
        /// The factor of step 0.
        #[serde(default)]
        start: f64,
        /// What follows.
        #[serde(default)]
        then: Box<Schedule>,
    },
    /// Up to the base rate, then far down, momentum the other way round: PyTorch's `OneCycleLR`
    /// where the base rate is `max_lr` (Smith & Topin 2017, "Super-Convergence").
    OneCycle {
        /// All steps of the cycle; afterwards the last value stays.
        steps: u64,
        /// Share of the steps that rise.
        #[serde(default = "default_rise")]
        rise: f64,
        /// The first factor is `1 / div`.
        #[serde(default = "default_div")]
        div: f64,
        /// The last factor is `1 / (div * final_div)`.
        #[serde(default = "default_final_div")]
        final_div: f64,
        /// Momentum at the top of the cycle and at its ends; `None` leaves momentum alone.
        #[serde(default = "default_momentum")]
        momentum: Option<(f64, f64)>,
    },
}

fn default_gamma() -> f64 {
    0.1
}
fn default_rise() -> f64 {
    0.3
}
fn default_div() -> f64 {
    25.0
}
fn default_final_div() -> f64 {
    1e4
}
fn default_momentum() -> Option<(f64, f64)> {
    Some((0.85, 0.95))
}

impl Schedule {
    /// A drop by `gamma` every `every` steps.
    pub fn step(every: u64, gamma: f64) -> Self {
        Schedule::Step { every, gamma }
    }

    /// A drop by `gamma` at every milestone.
    pub fn multi_step(milestones: impl Into<Vec<u64>>, gamma: f64) -> Self {
        Schedule::MultiStep {
            milestones: milestones.into(),
            gamma,
        }
    }

    /// A drop by `gamma` every step.
    pub fn exponential(gamma: f64) -> Self {
        Schedule::Exponential { gamma }
    }

    /// A straight line from 1 to `end`.
    pub fn linear(steps: u64, end: f64) -> Self {
        Schedule::Linear { steps, end }
    }

    /// Half a cosine from 1 to `min`.
    pub fn cosine(steps: u64, min: f64) -> Self {
        Schedule::Cosine { steps, min }
    }

    /// PyTorch's default one-cycle policy over `steps`.
    pub fn one_cycle(steps: u64) -> Self {
        Schedule::OneCycle {
            steps,
            rise: default_rise(),
            div: default_div(),
            final_div: default_final_div(),
            momentum: default_momentum(),
        }
    }

    /// This schedule after a linear rise from 0 over `steps`.
    pub fn with_warmup(self, steps: u64) -> Self {
        Schedule::Warmup {
            steps,
            start: 0.0,
            then: Box::new(self),
        }
    }

    /// What the base learning rate is multiplied with at `step`, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        match self {
            Schedule::Constant => 1.0,
            Schedule::Step { every, gamma } => power(*gamma, step / (*every).max(1)),
            Schedule::MultiStep { milestones, gamma } => {
                let passed = milestones.iter().filter(|&&m| m <= step).count();
                power(*gamma, passed as u64)
            }
            Schedule::Exponential { gamma } => power(*gamma, step),
            Schedule::Linear { steps, end } => lerp(1.0, *end, progress(step, *steps)),
            Schedule::Cosine { steps, min } => cosine(1.0, *min, progress(step, *steps)),
            Schedule::Warmup { steps, start, then } => {
                if step < *steps {
                    lerp(*start, 1.0, step as f64 / *steps as f64)
                } else {
                    then.factor(step - steps)
                }
            }
            Schedule::OneCycle {
                steps,
                rise,
                div,
                final_div,
                ..
            } => {
                let first = 1.0 / div;
                one_cycle(step, *steps, *rise, [first, 1.0, first / final_div])
            }
        }
    }

    /// The momentum (SGD) or first beta (Adam) at `step`, if the schedule moves it.
    pub fn momentum(&self, step: u64) -> Option<f64> {
        match self {
            Schedule::OneCycle {
                steps,
                rise,
                momentum: Some((top, ends)),
                ..
            } => Some(one_cycle(step, *steps, *rise, [*ends, *top, *ends])),
            Schedule::Warmup { steps, then, .. } => then.momentum(step.saturating_sub(*steps)),
            _ => None,
        }
    }
}

fn power(base: f64, exponent: u64) -> f64 {
    base.powf(exponent as f64)
}

fn lerp(a: f64, b: f64, t: f64) -> f64 {
    a + (b - a) * t
}

/// From `a` at 0 to `b` at 1 along half a cosine.
fn cosine(a: f64, b: f64, t: f64) -> f64 {
    b + (a - b) * (1.0 + (PI * t).cos()) / 2.0
}

/// The part of `steps` that is done, at most 1.
fn progress(step: u64, steps: u64) -> f64 {
    if step >= steps {
        1.0
    } else {
        step as f64 / steps as f64
    }
}

/// Cosine from `values[0]` to `values[1]` over the rising part, then to `values[2]`. The bounds
/// are PyTorch's: the rise ends at `rise * steps - 1`, which need not be whole.
fn one_cycle(step: u64, steps: u64, rise: f64, values: [f64; 3]) -> f64 {
    let last = steps.saturating_sub(1) as f64;
    let top = (rise * steps as f64 - 1.0).clamp(0.0, last);
    let step = (step as f64).min(last);
    if step <= top {
        let t = if top > 0.0 { step / top } else { 1.0 };
        cosine(values[0], values[1], t)
    } else {
        cosine(values[1], values[2], (step - top) / (last - top))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * b.abs().max(1e-3), "{a} is not {b}");
    }

    #[test]
    fn drops_happen_on_the_step() {
        let s = Schedule::step(10, 0.5);
        assert_eq!([s.factor(9), s.factor(10), s.factor(25)], [1.0, 0.5, 0.25]);
        let s = Schedule::multi_step([2, 4], 0.1);
        close(s.factor(1), 1.0);
        close(s.factor(2), 0.1);
        close(s.factor(4), 0.01);
        close(Schedule::exponential(0.9).factor(3), 0.729);
    }

    #[test]
    fn cosine_falls_to_its_minimum_and_stays() {
        let s = Schedule::cosine(10, 0.1);
        close(s.factor(0), 1.0);
        close(s.factor(5), 0.55);
        close(s.factor(10), 0.1);
        close(s.factor(1000), 0.1);
        close(Schedule::cosine(0, 0.1).factor(0), 0.1);
    }

    #[test]
    fn warmup_hands_over_at_step_zero_of_the_next() {
        let s = Schedule::linear(4, 0.0).with_warmup(4);
        let got: Vec<f64> = (0..9).map(|i| s.factor(i)).collect();
        assert_eq!(got, [0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(Schedule::Constant.with_warmup(0).factor(0), 1.0);
    }

    /// `torch.optim.lr_scheduler.OneCycleLR(SGD(lr=1, momentum=.9), max_lr=1, total_steps=10)`.
    #[test]
    fn one_cycle_follows_pytorch() {
        let s = Schedule::one_cycle(10);
        close(s.factor(0), 0.04);
        close(s.factor(1), 0.52);
        close(s.factor(2), 1.0);
        close(s.factor(4), 0.8117456539497631);
        close(s.momentum(4).unwrap(), 0.8688255099070633);
        close(s.factor(9), 4e-6);
        // Half-way down: the mean of the top and the end.
        let half = Schedule::one_cycle(20);
        close(half.factor(5), 1.0);
        close(half.factor(12), (1.0 + 4e-6) / 2.0);
        close(s.momentum(0).unwrap(), 0.95);
        close(s.momentum(2).unwrap(), 0.85);
        close(s.momentum(9).unwrap(), 0.95);
        close(s.factor(100), s.factor(9));
        assert_eq!(Schedule::Constant.momentum(3), None);
    }

    #[test]
    fn schedules_are_data() {
        let s = Schedule::one_cycle(10).with_warmup(3);
        let text = serde_json::to_string(&s).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), s);
        let s: Schedule = serde_json::from_str(r#"{"kind":"step","every":5}"#).unwrap();
        assert_eq!(s, Schedule::step(5, 0.1));
        assert!(serde_json::from_str::<Schedule>(r#"{"kind":"step","evry":5}"#).is_err());
    }
}
