mod identity;

pub use identity::{Identity, IdentityError};
