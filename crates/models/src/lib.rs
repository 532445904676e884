//! Part of Fornax.
