//! `Display` and `FromStr` for enums whose variants have a word each.

/// Implements `Display` by `as_str`, and `FromStr` as its inverse; an unknown word is an error of `$field`.
macro_rules! word_enum {
    ($type:ident, $field:literal: $($variant:ident),+ $(,)?) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = crate::error::Error;

            fn from_str(word: &str) -> crate::error::Result<$type> {
                let all = [$($type::$variant),+];
                all.into_iter().find(|one| one.as_str() == word).ok_or_else(|| {
                    let words = all.map(|one| one.as_str()).join(", ");
                    crate::error::Error::invalid($field, word, format!("one of {words}"))
                })
            }
        }
    };
}

pub(crate) use word_enum;
