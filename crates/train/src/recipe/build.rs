//! From the numbers of a recipe to optimizers and schedules.

use fornax_nn::{Adafactor, Adagrad, Adam, AdamW, Group, Optimizer, RMSprop, SGD, Schedule};

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
            decay: None,
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
        // The optimizer `$optimizer` with those of its options that are set.
        macro_rules! with {
            ($optimizer:ident: $($option:ident),*) => {{
                let mut optimizer = $optimizer::new(rate).weight_decay(decay);
                $(if let Some(value) = self.$option {
                    optimizer = optimizer.$option(value);
                })*
                if self.decay.as_deref() == Some("matrices") {
                    optimizer = optimizer.group(Group::vectors().weight_decay(0.0));
                }
                optimizer
            }};
        }
        let (beta1, beta2) = (self.beta1.unwrap_or(0.9), self.beta2.unwrap_or(0.999));
        match self.name.as_str() {
            "sgd" => Box::new(with!(SGD: momentum, nesterov)),
            "adam" => Box::new(with!(Adam: eps).betas(beta1, beta2)),
            "adamw" => Box::new(with!(AdamW: eps).betas(beta1, beta2)),
            "adagrad" => Box::new(with!(Adagrad: eps)),
            "adafactor" => Box::new(with!(Adafactor:)),
            "rmsprop" => Box::new(with!(RMSprop: alpha, eps, momentum)),
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
        let last = self.last.unwrap_or(0.0);
        let schedule = match self.name.as_str() {
            "constant" => Schedule::Constant,
            "step" => {
                let every = steps.saturating_mul(self.every.unwrap_or(10) as u64);
                Schedule::step(every, self.gamma.unwrap_or(0.1))
            }
            // Per epoch, as the name of PyTorch's ExponentialLR suggests to its users.
            "exponential" => Schedule::step(steps, self.gamma.unwrap_or(0.95)),
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
    use fornax_nn::{Layer, Linear};
    use fornax_tensor::{Tensor, manual_seed, value_and_grad};

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

    /// The weights after a few steps, so small that every setting tells: `eps` is no smaller than
    /// the gradients.
    fn trained(mut optimizer: Box<dyn Optimizer>) -> Vec<f64> {
        manual_seed(1);
        let mut model = Linear::new(2, 1);
        let x = Tensor::from_vec(vec![1.0f32, -0.5], [1, 2]);
        for _ in 0..3 {
            let loss = |model: &Linear| model.forward(&x).square().sum(..) * 1e-8;
            let (_, grads) = value_and_grad(&model, loss);
            optimizer.step(&mut model, grads).unwrap();
        }
        model.weight.to_f64_vec()
    }

    #[test]
    fn what_a_recipe_leaves_out_is_as_in_pytorch() {
        // PyTorch's default learning rate, and the optimizer with nothing else set.
        let all: [(&str, f64, Box<dyn Optimizer>); 6] = [
            ("sgd", 1e-3, Box::new(SGD::new(1e-3))),
            ("adam", 1e-3, Box::new(Adam::new(1e-3))),
            ("adamw", 1e-3, Box::new(AdamW::new(1e-3))),
            ("adagrad", 1e-2, Box::new(Adagrad::new(1e-2))),
            ("adafactor", 1e-2, Box::new(Adafactor::new(1e-2))),
            ("rmsprop", 1e-2, Box::new(RMSprop::new(1e-2))),
        ];
        assert_eq!(all.len(), choices("optimizer.name").len());
        for (name, rate, plain) in all {
            let set = format!("optimizer.name={name}");
            let recipe = Recipe::parse("r", "", &[set]).unwrap().optimizer;
            assert_eq!(recipe.learning_rate, rate, "{name}");
            let plain = trained(plain);
            assert_eq!(trained(recipe.build()), plain, "{name}");
            // A program of one's own that leaves options unset gets the same.
            let unset = OptimizerRecipe::named(name, rate, recipe.weight_decay);
            assert_eq!(trained(unset.build()), plain, "{name}");
        }
    }

    #[test]
    fn an_epoch_of_exponential_decay_takes_a_twentieth() {
        let set = ["schedule.name=exponential".to_owned()];
        let schedule = Recipe::parse("r", "", &set).unwrap().schedule.build(10, 5);
        assert_eq!(schedule.factor(9), 1.0);
        assert_eq!(schedule.factor(10), 0.95);
        let unset = ScheduleRecipe::named("exponential").build(10, 5);
        assert_eq!(unset.factor(10), 0.95);
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
