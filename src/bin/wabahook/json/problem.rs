//! What is wrong with the JSON of a request: the path of the member and a message without its value (I9).

/// Why a text is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonProblem {
    /// The path of the member, such as `retry.jitter`; `None` where the whole text is at fault.
    pub(crate) field: Option<String>,
    /// The whole message, with the path.
    pub(crate) message: String,
}

/// What to give where a required member is missing.
const REQUIRED: [(&str, &str); 10] = [
    ("name", "a name, unique in the account"),
    ("url", "an absolute URL such as \"https://crm.example/hook\""),
    ("events", "a list of event types such as [\"MESSAGE_RECEIVED\"], or \"*\" for all"),
    (
        "numbers",
        "a list of WABA numbers such as [\"919999999999\"], or \"*\" for all of the account",
    ),
    ("type", "an event type such as \"MESSAGE_RECEIVED\""),
    ("payload", "any JSON value"),
    ("overlap_ms", "for how many milliseconds the old secret stays valid; 0 revokes it at once"),
    ("kind", "\"exponential\", \"linear\" or \"list\""),
    ("client_key_pem", "the key of the certificate"),
    ("client_certificate_pem", "the certificate of the key"),
];

impl JsonProblem {
    /// A member is not acceptable.
    pub(crate) fn at(path: &str, problem: impl std::fmt::Display) -> JsonProblem {
        JsonProblem { field: Some(path.to_owned()), message: format!("{path}: {problem}") }
    }

    pub(crate) fn missing(path: &str) -> JsonProblem {
        let name = path.rsplit('.').next().unwrap_or(path);
        match REQUIRED.iter().find(|(known, _)| *known == name) {
            Some((_, expected)) => JsonProblem::at(path, format!("missing; expected {expected}")),
            None => JsonProblem::at(path, "missing"),
        }
    }

    /// The whole text is not acceptable.
    pub(crate) fn whole(message: impl Into<String>) -> JsonProblem {
        JsonProblem { field: None, message: message.into() }
    }
}

impl From<wabahook::Error> for JsonProblem {
    fn from(error: wabahook::Error) -> JsonProblem {
        JsonProblem { field: error.field().map(str::to_owned), message: error.to_string() }
    }
}
