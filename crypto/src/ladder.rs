//! What may leave an institution is a type.

/// The change of the adapter that local training made: private floats.
pub struct Delta(Vec<f32>);

impl core::fmt::Debug for Delta {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Delta({} coordinates)", self.0.len())
    }
}
