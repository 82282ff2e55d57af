//! Any text as a condition is read or refused, and one that was read is evaluated over any bytes as a payload
//! without a panic. The condition and its negation never hold together, and for JSON one of them does; text that
//! was read is read again to the same condition.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wabahook::Condition;

/// The condition around another one, if that is within the bounds of a condition.
fn around(text: String, inner: &Condition) -> Option<Condition> {
    let outer = Condition::parse(&text);
    let is_bound = |error: &wabahook::Error| matches!(error, wabahook::Error::TooLarge { .. });
    assert!(outer.as_ref().err().is_none_or(is_bound), "{inner}: {outer:?}");
    outer.ok()
}

fuzz_target!(|data: &[u8]| {
    // The condition ends with a zero byte; the payload is the rest.
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let text = parts.next().and_then(|text| std::str::from_utf8(text).ok());
    let payload = parts.next().unwrap_or_default();
    let Some(Ok(condition)) = text.map(Condition::parse) else { return };
    assert_eq!(Condition::parse(condition.as_str()).ok().as_ref(), Some(&condition));

    let holds = condition.is_met_by(payload);
    let is_json = serde_json::from_slice::<serde_json::Value>(payload).is_ok();
    let not = around(format!(r#"{{"not":{condition}}}"#), &condition);
    if let Some(negated) = not.map(|not| not.is_met_by(payload)) {
        assert!(!(holds && negated), "{condition}");
        assert!(holds || negated || !is_json, "{condition}");
    }
    for word in ["and", "or"] {
        let alone = around(format!(r#"{{"{word}":[{condition}]}}"#), &condition);
        assert!(alone.is_none_or(|alone| alone.is_met_by(payload) == holds), "{condition}");
    }
});
