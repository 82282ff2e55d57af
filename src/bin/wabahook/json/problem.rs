//! What is wrong with the JSON of a request: the path of the member and a message without its value (I9).

/// Why a text is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonProblem {
    /// The path of the member, such as `retry.jitter`; `None` where the whole text is at fault.
    pub(crate) field: Option<String>,
    /// The whole message, with the path.
    pub(crate) message: String,
}

/// What to give where a required member is missing. The first whose path ends so counts.
const REQUIRED: [(&str, &str); 19] = [
    ("rate_limit.events", "how many attempts may start in per_ms, a whole number"),
    ("per_ms", "in how many milliseconds, a whole number"),
    ("step_ms", "by how many milliseconds each wait is longer than the one before"),
    ("initial_ms", "how many milliseconds the first wait takes"),
    ("max_ms", "how many milliseconds a wait takes at most"),
    ("delays_ms", "a list of waits in milliseconds such as [1000, 60000]"),
    ("authorization.type", "\"BASIC\" or \"BEARER\""),
    ("authorization.payload", "a string: the user and password as user:password, or the token"),
    ("to", "the id of another account"),
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
        let is_it = |known: &str| {
            let before = path.strip_suffix(known);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        match REQUIRED.iter().find(|(known, _)| is_it(known)) {
            Some((_, expected)) => JsonProblem::at(path, format!("missing; expected {expected}")),
            None => JsonProblem::at(path, "missing"),
        }
    }

    /// Tells how the state is changed, where a request gives it as a member.
    pub(crate) fn with_state_hint(mut self) -> JsonProblem {
        if self.field.as_deref() == Some("state") {
            self.message = "state: unknown field; POST /subscriptions/{id}/pause and \
                            /subscriptions/{id}/resume change the state"
                .to_owned();
        }
        self
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
