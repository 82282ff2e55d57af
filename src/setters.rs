//! Chainable setters for structs of settings. The structs are `#[non_exhaustive]`, so that a new field is not a
//! breaking change; other crates make them from their default and these setters.

/// Declares one setter for each named field of a struct.
macro_rules! setters {
    ($type:ident { $($field:ident: $value:ty),+ $(,)? }) => {
        impl $type {
            $(
                #[doc = concat!("Sets the field `", stringify!($field), "`.")]
                #[must_use]
                pub fn $field(mut self, $field: $value) -> $type {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}

pub(crate) use setters;
