//! `Debug` of types that may not show all of their fields.

/// `Debug` with these fields only. What else the type has is secret, may be long, or has no `Debug`. Of a field a method
/// may be named, whose result is shown instead.
macro_rules! debug_fields {
    ($type:ident $(: $($field:ident $(.$method:ident())?),+)?) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type))
                    $($(.field(
                        concat!(stringify!($field) $(, ".", stringify!($method))?),
                        &self.$field $(.$method())?,
                    ))+)?
                    .finish_non_exhaustive()
            }
        }
    };
}

pub(crate) use debug_fields;
