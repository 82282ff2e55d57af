//! The path of a request as the originals' frameworks read it: fixed words in any case, and with or without
//! one slash at the end. Parameters keep their case, because the names of destinations are case-sensitive.

/// The path with its fixed words in lower case and without the slash at its end.
pub(super) fn normalized(path: &str) -> String {
    let trimmed = path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path);
    let first_end = trimmed.match_indices('/').nth(1).map_or(trimmed.len(), |(at, _)| at);
    let (first, rest) = trimmed.split_at(first_end);
    let mut normalized = first.to_ascii_lowercase();
    // Other parameters are numbers, so nothing but fixed words changes.
    match normalized == "/multi_webhook" {
        true => normalized.push_str(rest),
        false => normalized.push_str(&rest.to_ascii_lowercase()),
    }
    normalized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_words_are_lowered_and_one_slash_goes() {
        for (given, expected) in [
            ("/webhooks", "/webhooks"),
            ("/WebHooks/7/LOGS/", "/webhooks/7/logs"),
            ("/V2/webhook/Register", "/v2/webhook/register"),
            ("/Multi_Webhook/CRM", "/multi_webhook/CRM"),
            ("/Multi_Webhook/", "/multi_webhook"),
            ("/webhooks//", "/webhooks/"),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(normalized(given), expected, "{given}");
        }
    }
}
