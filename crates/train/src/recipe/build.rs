//! From the numbers of a recipe to optimizers and schedules.

use fornax_nn::{Adagrad, Adam, AdamW, Optimizer, RMSprop, SGD, Schedule};

use super::{OptimizerRecipe, Recipe, ScheduleRecipe};

impl Default for Recipe {
    /// What an empty recipe says.
    fn default() -> Self {
        Self::parse("the empty recipe", "", &[]).expect("the defaults are a recipe")
    }
}

impl OptimizerRecipe {
    fn named(name: &str, learning_rate: f64, weight_decay: f64) -> Self {
        Self {
            name: name.into(),
            learning_rate,
            weight_decay,
            momentum: None,
            nesterov: None,
            beta1: None,
            beta2: None,
            alpha: None,
            eps: None,
        }
    }

    /// AdamW (Loshchilov & Hutter 2019).
    pub fn adamw(learning_rate: f64, weight_decay: f64) -> Self {
        Self::named("adamw", learning_rate, weight_decay)
    }

    /// Adam (Kingma & Ba 2015).
    pub fn adam(learning_rate: f64) -> Self {
        Self::named("adam", learning_rate, 0.0)
    }

    /// Stochastic gradient descent with momentum.
    pub fn sgd(learning_rate: f64, momentum: f64) -> Self {
        Self {
            momentum: Some(momentum),
            ..Self::named("sgd", learning_rate, 0.0)
        }
    }

    /// The optimizer; what is not set has PyTorch's default.
    ///
    /// # Panics
    /// If the name is none that a recipe can have.
    pub fn build(&self) -> Box<dyn Optimizer> {
        let (rate, decay) = (self.learning_rate, self.weight_decay);
        let (beta1, beta2) = (self.beta1.unwrap_or(0.9), self.beta2.unwrap_or(0.999));
        let momentum = self.momentum.unwrap_or(0.0);
        let eps = self.eps.unwrap_or(1e-8);
        match self.name.as_str() {
            "sgd" => {
                let sgd = SGD::new(rate).momentum(momentum).weight_decay(decay);
                Box::new(sgd.nesterov(self.nesterov.unwrap_or(false)))
            }
            "adam" => {
                let adam = Adam::new(rate).betas(beta1, beta2);
                Box::new(adam.eps(eps).weight_decay(decay))
            }
            "adamw" => {
                let adamw = AdamW::new(rate).betas(beta1, beta2);
                Box::new(adamw.eps(eps).weight_decay(decay))
            }
            "adagrad" => {
                let eps = self.eps.unwrap_or(1e-10);
                Box::new(Adagrad::new(rate).eps(eps).weight_decay(decay))
            }
            "rmsprop" => {
                let rmsprop = RMSprop::new(rate)
                    .alpha(self.alpha.unwrap_or(0.99))
                    .eps(eps);
                Box::new(rmsprop.momentum(momentum).weight_decay(decay))
            }
            other => panic!("no optimizer is called {other:?}"),
        }
    }
}

impl ScheduleRecipe {
    /// The schedule called `name` with everything else at its default.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            warmup: None,
            every: None,
            gamma: None,
            last: None,
            rise: None,
        }
    }

    /// The factor on the learning rate by optimizer step, for epochs of `steps` steps.
    ///
    /// # Panics
    /// If the name is none that a recipe can have.
    pub fn build(&self, steps: u64, epochs: u64) -> Schedule {
        let all = steps.saturating_mul(epochs);
        let warmup = (self.warmup.unwrap_or(0.0) * all as f64).round() as u64;
        let rest = all.saturating_sub(warmup);
        let gamma = self.gamma.unwrap_or(0.1);
        let last = self.last.unwrap_or(0.0);
        let schedule = match self.name.as_str() {
            "constant" => Schedule::Constant,
            "step" => Schedule::step(steps.saturating_mul(self.every.unwrap_or(10) as u64), gamma),
            // Per epoch, as the name of PyTorch's ExponentialLR suggests to its users.
            "exponential" => Schedule::step(steps, gamma),
            "cosine" => Schedule::cosine(rest, last),
            "linear" => Schedule::linear(rest, last),
            "one_cycle" => {
                let mut schedule = Schedule::one_cycle(all);
                if let (Schedule::OneCycle { rise, .. }, Some(wanted)) = (&mut schedule, self.rise)
                {
                    *rise = wanted;
                }
                schedule
            }
            other => panic!("no schedule is called {other:?}"),
        };
        if warmup > 0 {
            schedule.with_warmup(warmup)
        } else {
            schedule
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::schema::{self, Kind};

    fn choices(path: &str) -> &'static [&'static str] {
        match schema::find(path).unwrap().kind {
            Kind::Choice(words) => words,
            _ => panic!("{path} is no choice"),
        }
    }

    #[test]
    fn every_name_builds() {
        for name in choices("optimizer.name") {
            assert_eq!(OptimizerRecipe::named(name, 0.5, 0.0).build().lr(), 0.5);
        }
        for name in choices("schedule.name") {
            let factor = ScheduleRecipe::named(name).build(10, 3).factor(5);
            assert!(factor > 0.0 && factor <= 1.0, "{name}: {factor}");
        }
    }

    #[test]
    fn endless_runs_have_schedules() {
        for name in choices("schedule.name") {
            let schedule = ScheduleRecipe {
                warmup: Some(0.5),
                ..ScheduleRecipe::named(name)
            };
            let schedule = schedule.build(100, i64::MAX as u64);
            for step in [0, 1, 1 << 40, u64::MAX] {
                assert!(schedule.factor(step).is_finite(), "{name}, step {step}");
            }
        }
    }

    #[test]
    fn schedules_count_steps_over_all_epochs() {
        let cosine = ScheduleRecipe {
            warmup: Some(0.1),
            ..ScheduleRecipe::named("cosine")
        };
        let schedule = cosine.build(10, 10);
        assert_eq!(schedule.factor(5), 0.5);
        assert_eq!(schedule.factor(10), 1.0);
        assert!((schedule.factor(55) - 0.5).abs() < 1e-12);
        assert!(schedule.factor(99) < 0.01);
        let step = ScheduleRecipe {
            every: Some(2),
            ..ScheduleRecipe::named("step")
        };
        assert_eq!(step.build(10, 5).factor(19), 1.0);
        assert_eq!(step.build(10, 5).factor(20), 0.1);
    }
}
