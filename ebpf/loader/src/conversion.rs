//! From the keys and values of one version to those of another, by the names of their fields.

use std::ops::Range;

use tombolo_abi::FieldKind;

use crate::description::{FieldDescription, MapDescription, RecordDescription};

/// How the entries of a map become those of another version. A field that both have is copied, and a number is made
/// longer or shorter where its size differs. What only the new version has is zero, and what only the old one has is lost:
/// keys that differed in nothing else become one.
///
/// What fields mean is not known here: that is what [`MapDescription::version`] is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conversion {
    key: Plan,
    value: Plan,
}

/// A field cannot be converted, whatever is in it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "field {field} of map {map} is {old} in the old version and {new} in the new one: there is no conversion"
)]
pub struct PlanError {
    /// The map.
    pub map: String,
    /// The field.
    pub field: String,
    /// What it is in the old version.
    pub old: String,
    /// What it is in the new one.
    pub new: String,
}

/// A key or a value cannot be converted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConversionError {
    /// A number is too large for the new version.
    #[error("the number in field {field} does not fit into {size} bytes")]
    TooLarge {
        /// The field.
        field: String,
        /// Its size in the new version.
        size: usize,
    },
    /// The old record or the buffer for the new one has another size than its description says.
    #[error("{found} bytes were given where the description of the map has {expected}")]
    Size {
        /// The size of the description.
        expected: usize,
        /// The size given.
        found: usize,
    },
}

impl Conversion {
    /// Plans the conversion, once for all entries.
    ///
    /// # Errors
    /// A field whose size differs is no number, or a number became something else.
    pub fn between(old: &MapDescription, new: &MapDescription) -> Result<Self, PlanError> {
        Ok(Self {
            key: Plan::new(&new.name, &old.key, &new.key)?,
            value: Plan::new(&new.name, &old.value, &new.value)?,
        })
    }

    /// Writes the new form of a key into `new`, whose size is that of keys of the new version.
    ///
    /// # Errors
    /// A number that does not fit, or slices of other sizes than the descriptions say. What is in `new` is then not
    /// to be used.
    pub fn key(&self, old: &[u8], new: &mut [u8]) -> Result<(), ConversionError> {
        self.key.apply(old, new)
    }

    /// The same for a value.
    ///
    /// # Errors
    /// As for a key.
    pub fn value(&self, old: &[u8], new: &mut [u8]) -> Result<(), ConversionError> {
        self.value.apply(old, new)
    }
}

/// What is done for a key or a value.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    old_size: usize,
    new_size: usize,
    steps: Vec<Step>,
}

/// A field that both versions have, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Step {
    field: String,
    old: Range<usize>,
    new: Range<usize>,
}

impl Plan {
    fn new(map: &str, old: &RecordDescription, new: &RecordDescription) -> Result<Self, PlanError> {
        let mut steps = Vec::new();
        for field in &new.fields {
            let Some(before) = old.fields.iter().find(|before| before.name == field.name) else { continue };
            if before.kind != field.kind || (field.kind == FieldKind::Bytes && before.size != field.size) {
                return Err(PlanError {
                    map: map.to_owned(),
                    field: field.name.clone(),
                    old: in_words(before),
                    new: in_words(field),
                });
            }
            steps.push(Step { field: field.name.clone(), old: place(before), new: place(field) });
        }
        Ok(Self { old_size: old.size, new_size: new.size, steps })
    }

    fn apply(&self, old: &[u8], new: &mut [u8]) -> Result<(), ConversionError> {
        check(self.old_size, old.len())?;
        check(self.new_size, new.len())?;
        new.fill(0);
        for step in &self.steps {
            let size = ConversionError::Size { expected: step.old.end, found: old.len() };
            let from = old.get(step.old.clone()).ok_or(size)?;
            let size = ConversionError::Size { expected: step.new.end, found: new.len() };
            let to = new.get_mut(step.new.clone()).ok_or(size)?;
            // Numbers begin with their least significant byte.
            let (kept, lost) = from.split_at(from.len().min(to.len()));
            if lost.iter().any(|&byte| byte != 0) {
                return Err(ConversionError::TooLarge { field: step.field.clone(), size: to.len() });
            }
            to[..kept.len()].copy_from_slice(kept);
        }
        Ok(())
    }
}

fn in_words(field: &FieldDescription) -> String {
    match field.kind {
        FieldKind::Number => format!("a number of {} bytes", field.size),
        FieldKind::Bytes => format!("{} bytes", field.size),
    }
}

fn place(field: &FieldDescription) -> Range<usize> {
    field.offset..field.offset.saturating_add(field.size)
}

fn check(expected: usize, found: usize) -> Result<(), ConversionError> {
    if expected == found { Ok(()) } else { Err(ConversionError::Size { expected, found }) }
}

#[cfg(test)]
mod tests;
