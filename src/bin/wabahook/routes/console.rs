//! Serves the console: a few files, with headers that keep other sites out. The page loads nothing but
//! these files and cannot be framed. It holds no data of an account until somebody signs in, and sets no
//! cookie, so that no other site can send requests in its name.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// The page may load its own scripts and styles and send requests to this host, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Path, content type, content.
const FILES: [(&str, &str, &str); 12] = [
    ("/", "text/html; charset=utf-8", include_str!("../console/index.html")),
    ("/console/console.css", "text/css; charset=utf-8", include_str!("../console/console.css")),
    ("/console/icon.svg", "image/svg+xml", include_str!("../console/icon.svg")),
    ("/console/app.js", SCRIPT, include_str!("../console/app.js")),
    ("/console/api.js", SCRIPT, include_str!("../console/api.js")),
    ("/console/dom.js", SCRIPT, include_str!("../console/dom.js")),
    ("/console/charts.js", SCRIPT, include_str!("../console/charts.js")),
    ("/console/find.js", SCRIPT, include_str!("../console/find.js")),
    ("/console/overview.js", SCRIPT, include_str!("../console/overview.js")),
    ("/console/form.js", SCRIPT, include_str!("../console/form.js")),
    ("/console/deliveries.js", SCRIPT, include_str!("../console/deliveries.js")),
    ("/console/webhooks.js", SCRIPT, include_str!("../console/webhooks.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The routes of the console's files.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        router.route(path, get(move || async move { file(kind, content) }))
    })
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let fixed = |name: &'static str, value: &'static str| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        // The next version of the program has other files at the same paths.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        fixed("content-security-policy", POLICY),
        fixed("x-content-type-options", "nosniff"),
        fixed("x-frame-options", "DENY"),
        fixed("referrer-policy", "no-referrer"),
        fixed("cross-origin-opener-policy", "same-origin"),
        fixed("cross-origin-resource-policy", "same-origin"),
    ];
    (headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let served: Vec<_> = FILES.iter().map(|file| file.0).collect();
        for (path, _, content) in FILES.iter() {
            let named = content.split('"').filter(|text| {
                text.starts_with("/console/") || (text.starts_with("./") && text.ends_with(".js"))
            });
            for name in named {
                let name = name.replacen("./", "/console/", 1);
                assert!(served.contains(&name.as_str()), "{path} names {name}");
            }
        }
    }

    #[test]
    fn no_file_writes_markup_or_names_another_host() {
        for (path, _, content) in FILES.iter() {
            for forbidden in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
            {
                assert!(!content.contains(forbidden), "{path} has {forbidden}");
            }
            let elsewhere = content
                .replace("http://www.w3.org/2000/svg", "")
                .replace("https://crm.example", "");
            assert!(!elsewhere.contains("://"), "{path} names another host");
        }
    }
}
