//! Values that JSON has no type for: a member that is left out or null, one of a few words, a whole
//! number, a set or `"*"`, a value or `"never"`, names with values. Each of them says what it expects,
//! so that an error can.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;
use serde_json::value::RawValue;

use super::problem::JsonProblem;
use crate::timestamp::{from_rfc3339, rfc3339};

/// A member of a request that changes something: left out (stays as it is), null (back to the default)
/// or a value.
#[derive(Default)]
pub(crate) enum Patch<T> {
    #[default]
    Absent,
    Null,
    Value(T),
}

/// Declares a type whose members are all [`Patch`]es.
macro_rules! patches {
    ($(#[$about:meta])* $visible:vis struct $type:ident { $($member:ident: $value:ty,)* }) => {
        $(#[$about])*
        #[derive(Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        $visible struct $type {
            $(
                #[serde(skip_serializing_if = "Patch::is_absent")]
                pub(crate) $member: Patch<$value>,
            )*
        }
    };
}
pub(super) use patches;

impl<T> Patch<T> {
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Patch::Absent)
    }

    pub(crate) fn as_ref(&self) -> Option<&T> {
        match self {
            Patch::Value(value) => Some(value),
            _ => None,
        }
    }

    /// Changes a setting.
    pub(super) fn change<U>(&mut self, setting: &mut U, default: U, read: impl FnOnce(T) -> U) {
        match std::mem::replace(self, Patch::Absent) {
            Patch::Absent => {}
            Patch::Null => *setting = default,
            Patch::Value(value) => *setting = read(value),
        }
    }

    /// The new value of a setting whose default is `U`'s.
    pub(super) fn or_kept<U: Default>(&mut self, kept: Option<U>, read: impl FnOnce(T) -> U) -> U {
        let mut setting = kept.unwrap_or_default();
        self.change(&mut setting, U::default(), read);
        setting
    }

    /// The value of a setting without a default: it may be left out only where it was set before.
    pub(super) fn required(&mut self, name: &str, kept: Option<T>) -> Result<T, JsonProblem> {
        match std::mem::replace(self, Patch::Absent) {
            Patch::Absent => kept,
            Patch::Null => None,
            Patch::Value(value) => Some(value),
        }
        .ok_or_else(|| JsonProblem::missing(name))
    }
}

impl<T> From<Option<T>> for Patch<T> {
    fn from(value: Option<T>) -> Patch<T> {
        value.map_or(Patch::Null, Patch::Value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Patch<T>, D::Error> {
        Option::deserialize(deserializer).map(Patch::from)
    }
}

impl<T: Serialize> Serialize for Patch<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Patch::Value(value) => value.serialize(serializer),
            Patch::Absent | Patch::Null => serializer.serialize_none(),
        }
    }
}

/// A struct given as an object. serde would take an array of its values, too.
#[derive(Serialize)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}

/// A type with a word for each of its values.
pub(crate) trait Words: Clone + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];

    /// The word of a value; the first one for a value that has none.
    fn word(&self) -> &'static str {
        let named = Self::WORDS.iter().find(|(_, value)| value == self);
        named.or(Self::WORDS.first()).map_or("", |(word, _)| word)
    }

    /// The value of a word.
    fn of_word(word: &str) -> Option<Self> {
        let named = Self::WORDS.iter().find(|(known, _)| *known == word);
        named.map(|(_, value)| value.clone())
    }
}

/// A value given as its word.
pub(crate) struct Word<T>(pub(crate) T);

impl<T: Words> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.word())
    }
}

impl<'de, T: Words> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Word<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::of_word(&text).map(Word).ok_or_else(|| {
            let words: Vec<_> = T::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let found: String = text.chars().take(FOUND_CHARS_MAX).collect();
            D::Error::custom(format_args!("found {found:?}; expected {}", words.join(" or ")))
        })
    }
}

/// How much of a wrong word a message repeats. No word is a secret.
const FOUND_CHARS_MAX: usize = 40;

/// A string that is none of those expected. The string itself is not repeated.
fn another_string<E: Error>(expected: &str) -> E {
    E::custom(format_args!("found another string; expected {expected}"))
}

/// A whole number, which may be written with a fraction of zeros: some clients know one kind of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Whole<T>(pub(crate) T);

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Whole<T>, D::Error> {
        let number = Number::deserialize(deserializer)?;
        let fraction = number.as_f64().filter(|number| number.fract() == 0.0);
        let written = || fraction.and_then(|number| format!("{number:.0}").parse().ok());
        let whole = number.as_u64().or_else(written).and_then(|number| T::try_from(number).ok());
        whole.map(Whole).ok_or_else(|| {
            let bounds = [u32::MAX.into(), u16::MAX.into()];
            let max = bounds
                .into_iter()
                .find(|max| T::try_from(max + 1).is_err() && T::try_from(*max).is_ok());
            let max = max.unwrap_or(u64::MAX);
            Error::custom(format_args!("found {number}; expected a whole number from 0 to {max}"))
        })
    }
}

/// A span, as a whole number of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Millis(pub(crate) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_millis())
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX))
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
        Whole::deserialize(deserializer).map(|ms| Millis(Duration::from_millis(ms.0)))
    }
}

/// What is expected where a set is given.
const SET_OR_ALL: &str = "a list of names, or \"*\" for all";

/// A list of names, or `"*"` for all. A star inside a list would name nothing, so it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetOrAll {
    All,
    Set(Vec<String>),
}

impl SetOrAll {
    /// The texts of a set; `None` is all.
    pub(super) fn of<T: ToString>(set: Option<impl IntoIterator<Item = T>>) -> SetOrAll {
        set.map_or(SetOrAll::All, |set| {
            SetOrAll::Set(set.into_iter().map(|one| one.to_string()).collect())
        })
    }

    pub(super) fn into_set(self) -> Option<Vec<String>> {
        match self {
            SetOrAll::All => None,
            SetOrAll::Set(set) => Some(set),
        }
    }
}

impl fmt::Display for SetOrAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetOrAll::All => f.write_str("*"),
            SetOrAll::Set(set) => f.write_str(&set.join(",")),
        }
    }
}

impl Serialize for SetOrAll {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SetOrAll::All => serializer.serialize_str("*"),
            SetOrAll::Set(set) => set.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for SetOrAll {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SetOrAll, D::Error> {
        struct SetVisitor;
        impl<'de> Visitor<'de> for SetVisitor {
            type Value = SetOrAll;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SET_OR_ALL)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SetOrAll, E> {
                if text == "*" { Ok(SetOrAll::All) } else { Err(another_string(SET_OR_ALL)) }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<SetOrAll, A::Error> {
                let mut set = Vec::new();
                while let Some(SetName(name)) = list.next_element()? {
                    set.push(name);
                }
                if set.is_empty() {
                    let message = format_args!("found an empty list; expected {SET_OR_ALL}");
                    return Err(A::Error::custom(message));
                }
                Ok(SetOrAll::Set(set))
            }
        }
        deserializer.deserialize_any(SetVisitor)
    }
}

struct SetName(String);

impl<'de> Deserialize<'de> for SetName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SetName, D::Error> {
        match String::deserialize(deserializer)? {
            star if star == "*" => {
                Err(D::Error::custom("found \"*\" inside a list; give it alone"))
            }
            name => Ok(SetName(name)),
        }
    }
}

/// A value, or `"never"`.
pub(crate) struct OrNever<T>(pub(crate) Option<T>);

impl<T: Serialize> Serialize for OrNever<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str("never"),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrNever<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OrNever<T>, D::Error> {
        struct OrNeverVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OrNeverVisitor<T> {
            type Value = Option<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, or \"never\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Option<T>, E> {
                match text {
                    "never" => Ok(None),
                    _ => Err(E::invalid_type(Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Option<T>, E> {
                T::deserialize(number.into_deserializer()).map(Some)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Option<T>, E> {
                T::deserialize(number.into_deserializer()).map(Some)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Some)
            }
        }
        deserializer.deserialize_any(OrNeverVisitor(PhantomData)).map(OrNever)
    }
}

/// Names with values, in their order, each name once.
pub(crate) struct Pairs<V>(pub(crate) Vec<(String, V)>);

impl<V: Serialize> Serialize for Pairs<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs<V>, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
            type Value = Vec<(String, V)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut pairs, mut names) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    pairs.push((name, map.next_value()?));
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(PairsVisitor(PhantomData)).map(Pairs)
    }
}

/// A string, or a number or a boolean as it is written: the value of a query parameter.
pub(crate) struct Scalar(pub(crate) String);

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let found = match raw.get().bytes().next() {
            Some(b'"') => {
                return serde_json::from_str(raw.get()).map(Scalar).map_err(Error::custom);
            }
            Some(b'[') => Unexpected::Seq,
            Some(b'{') => Unexpected::Map,
            Some(b'n') | None => Unexpected::Unit,
            _ => return Ok(Scalar(raw.get().to_owned())),
        };
        Err(D::Error::invalid_type(found, &"a string, a number or a boolean"))
    }
}

/// A value that is written as text: an id, a number, a state.
pub(crate) struct Text<T>(pub(crate) T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err = wabahook::Error>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Text).map_err(|error| match error {
            wabahook::Error::Invalid { expected, .. } => another_string(&expected),
            _ => another_string("another value"),
        })
    }
}

/// A date and time of RFC 3339; in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TimestampJson(pub(crate) u64);

/// What is expected where a date and time is given.
const DATE_AND_TIME: &str = "a date and time such as \"2026-01-31T12:00:00Z\"";

impl fmt::Display for TimestampJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rfc3339(self.0))
    }
}

impl Serialize for TimestampJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339(self.0))
    }
}

impl<'de> Deserialize<'de> for TimestampJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TimestampJson, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_rfc3339(&text).map(TimestampJson).ok_or_else(|| another_string(DATE_AND_TIME))
    }
}
