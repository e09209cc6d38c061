//! What keeps a sum from telling too much: the clamp of every coordinate, and the noise that the charter asks for.
//!
//! Both act on a member's own delta, before its mask. Floats exist only here and in [`crate::fixed`].

pub mod clip;
pub mod noise;
