//! Parameter groups.

use fornax_tensor::Tensor;
use std::fmt;

type Predicate = dyn Fn(&str, &Tensor) -> bool + Send + Sync;

/// Parameters with options of their own, chosen by a predicate on name and tensor.
///
/// ```
/// use fornax_nn::{AdamW, Group};
/// // No weight decay on biases and normalisation, and a slow start for the embedding.
/// let optimizer = AdamW::new(1e-3)
///     .group(Group::when(|name, _| name.starts_with("embedding")).lr_scale(0.1))
///     .group(Group::vectors().weight_decay(0.0));
/// ```
pub struct Group {
    claims: Box<Predicate>,
    pub(super) lr_scale: f64,
    pub(super) weight_decay: Option<f64>,
}

impl Group {
    /// The parameters for which `predicate` holds, given full name and tensor.
    pub fn when(predicate: impl Fn(&str, &Tensor) -> bool + Send + Sync + 'static) -> Self {
        Group {
            claims: Box::new(predicate),
            lr_scale: 1.0,
            weight_decay: None,
        }
    }

    /// The parameters of at most one dimension: biases, and the scales of normalisation layers.
    pub fn vectors() -> Self {
        Group::when(|_, tensor| tensor.rank() <= 1)
    }

    /// What the optimizer's learning rate is multiplied with; 1 by default.
    pub fn lr_scale(mut self, scale: f64) -> Self {
        self.lr_scale = scale;
        self
    }

    /// A weight decay other than the optimizer's.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = Some(weight_decay);
        self
    }

    pub(super) fn claims(&self, name: &str, tensor: &Tensor) -> bool {
        (self.claims)(name, tensor)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("lr_scale", &self.lr_scale)
            .field("weight_decay", &self.weight_decay)
            .finish_non_exhaustive()
    }
}
