//! The hyperparameters of a [`Trainer`](super::Trainer).

use serde::{Deserialize, Serialize};

use crate::recipe::{
    BestRecipe, CheckpointRecipe, EarlyStoppingRecipe, OptimizerRecipe, Recipe,
    RegularizationRecipe, ScheduleRecipe,
};

/// How a model is trained. The fields are those of a recipe and mean the same there.
///
/// ```
/// use fornax_train::{OptimizerRecipe, TrainConfig};
/// let config = TrainConfig {
///     epochs: 5,
///     optimizer: OptimizerRecipe::adamw(1e-3, 0.01),
///     ..TrainConfig::default()
/// };
/// assert_eq!(config.batch_size, 64);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// Passes over the training data.
    pub epochs: usize,
    /// Examples per batch.
    pub batch_size: usize,
    /// Batches whose gradients are averaged into one optimizer step.
    pub accumulate: usize,
    /// Seed of shuffling, augmentation and dropout.
    pub seed: u64,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// How the learning rate moves.
    pub schedule: ScheduleRecipe,
    /// Penalties, label smoothing and clipping.
    pub regularization: RegularizationRecipe,
    /// When to stop before the last epoch.
    pub early_stopping: EarlyStoppingRecipe,
    /// Whether the best epoch's weights are kept.
    pub best: BestRecipe,
    /// How often the state is saved inside an epoch.
    pub checkpoint: CheckpointRecipe,
}

impl Default for TrainConfig {
    /// What an empty recipe says.
    fn default() -> Self {
        Self::from(&Recipe::default())
    }
}

impl From<&Recipe> for TrainConfig {
    fn from(recipe: &Recipe) -> Self {
        Self {
            epochs: recipe.epochs,
            batch_size: recipe.batch_size,
            accumulate: recipe.accumulate,
            seed: recipe.seed,
            optimizer: recipe.optimizer.clone(),
            schedule: recipe.schedule.clone(),
            regularization: recipe.regularization.clone(),
            early_stopping: recipe.early_stopping.clone(),
            best: recipe.best.clone(),
            checkpoint: recipe.checkpoint.clone(),
        }
    }
}
