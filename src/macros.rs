//! The macros of the library: words for the variants of enums, and setters for structs of settings.

/// Gives an enum `as_str` and `Display`. With the name of a field, also `FromStr` as the inverse: an unknown word is
/// an error of that field.
macro_rules! word_enum {
    ($vis:vis $type:ident: $($variant:ident = $word:literal),+ $(,)?) => {
        impl $type {
            /// Its word in listings, JSON and messages, the same in every version.
            $vis fn as_str(self) -> &'static str {
                match self { $($type::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
    ($vis:vis $type:ident, $field:literal: $($variant:ident = $word:literal),+ $(,)?) => {
        $crate::macros::word_enum!($vis $type: $($variant = $word),+);

        impl std::str::FromStr for $type {
            type Err = $crate::error::Error;

            fn from_str(word: &str) -> $crate::error::Result<$type> {
                let all = [$($type::$variant),+];
                all.into_iter().find(|one| one.as_str() == word).ok_or_else(|| {
                    let words = all.map(|one| one.as_str()).join(", ");
                    $crate::error::Error::invalid($field, word, format!("one of {words}"))
                })
            }
        }
    };
}

/// Declares one chainable setter for each named field of a struct. The structs are `#[non_exhaustive]`, so that a new
/// field is not a breaking change; other crates make them from their default and these setters.
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
pub(crate) use word_enum;
