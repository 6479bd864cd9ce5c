//! What clients call their models.

use std::sync::{Mutex, PoisonError};

use fleet::{ModelRef, ModelRefError};

/// Names that are remembered; a client says the same one again and again.
const KEPT: usize = 8;

/// The last names that were read, with what they mean.
#[derive(Debug, Default)]
pub(crate) struct Named(Mutex<Vec<(Box<str>, ModelRef)>>);

impl Named {
    /// What a name means.
    pub(crate) fn read(&self, text: &str) -> Result<ModelRef, ModelRefError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, model)) = kept.iter().find(|(name, _)| **name == *text) {
            return Ok(model.clone());
        }
        let model: ModelRef = text.parse()?;
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((text.into(), model.clone()));
        Ok(model)
    }
}
