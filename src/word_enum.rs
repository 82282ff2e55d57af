//! The words of enums whose variants have one each.

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
        $crate::word_enum::word_enum!($vis $type: $($variant = $word),+);

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

pub(crate) use word_enum;
