//! `unowned` lists the numbers and WABAs of callbacks that no account owns.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::host_process::HostProcess;
use crate::program::ask;

fn post_signed(served: &HostProcess, body: &str) {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"app-secret").unwrap();
    mac.update(body.as_bytes());
    let digest = mac.finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let headers = [("x-hub-signature-256", format!("sha256={hex}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    served.request("POST", "/meta/webhook", &headers, body.as_bytes()).with_status(200);
}

#[test]
fn unowned_wabas_are_listed() {
    let (_place, served) = HostProcess::fresh();
    ask(&served, &["unowned"]).done().says(&["no unowned numbers or WABAs"]);
    post_signed(&served, r#"{"entry":[{"id":"7000","changes":[{"field":"flows","value":{}}]}]}"#);
    ask(&served, &["unowned"]).done().says(&["NUMBER", "7000"]);
    let listed = ask(&served, &["unowned", "--json"]).done().json();
    let source = &listed["items"][0];
    assert_eq!((&source["waba"], &source["number"]), (&json!("7000"), &json!(null)), "{listed}");
    ask(&served, &["unowned", "--limit", "0"]).failed(2, &["limit"]);
}
