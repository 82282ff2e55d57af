//! `verify` says which signatures of a real delivery are valid, and why one is not.

use std::fs;

use serde_json::json;

use crate::client::assert_members;
use crate::host_process::{ACME, HostProcess, line};
use crate::program::{Ran, command, run};
use crate::receiver::Receiver;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[test]
fn a_kept_delivery_is_verified() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/hook"), json!({"secret": SECRET}));
    served.post("/events", ACME, line(7));
    let attempt = receiver.next();
    let (_, headers) = attempt.head.split_once("\r\n").unwrap();
    fs::write(place.path("headers"), headers).unwrap();
    fs::write(place.path("body"), &attempt.body).unwrap();
    fs::write(place.path("secret"), format!("{SECRET}\n")).unwrap();
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let verify = |more: &[&str], secret: Option<&str>| -> Ran {
        let mut command = command();
        command.args(["verify", "--body", &path("body"), "--headers", &path("headers")]).args(more);
        command.envs(secret.map(|secret| ("WABAHOOK_SECRET", secret)));
        let ran = run(&mut command, "");
        assert!(!ran.out.contains("MfKQ9r8") && !ran.err.contains("MfKQ9r8"), "{ran:?}");
        ran
    };
    verify(&[], Some(SECRET))
        .done()
        .says(&["webhook-signature: valid", "x-hub-signature-256: valid"]);
    verify(&["--secret-file", &path("secret")], None).done();
    verify(&[], None).failed(2, &["no secret: set WABAHOOK_SECRET"]);
    let bare = verify(&[], Some("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    bare.failed(1, &["with whsec_ before the secret", "2 of 2"]);
    verify(&["--at", "1"], Some(SECRET)).failed(1, &["is in the future", "--at", "1 of 2"]);
    fs::write(place.path("body"), [&attempt.body[..], b"\n"].concat()).unwrap();
    let ran = verify(&["--json"], Some(SECRET));
    assert_eq!(ran.code, 1);
    let checks = ran.json()["checks"].clone();
    assert_members(&checks[0], json!({"check": "webhook-signature", "valid": false}));
    ran.says(&["line break at the end", "\"code\":\"failed\""]);
}

#[test]
fn missing_signatures_and_headers_are_told() {
    let verify = |more: &[&str]| {
        run(
            command().args(["verify", "--body", "-"]).args(more).env("WABAHOOK_SECRET", SECRET),
            "{}",
        )
    };
    verify(&["--header", "webhook-id: evt_1"]).failed(1, &["neither webhook-signature nor"]);
    verify(&[]).failed(2, &["no headers were given"]);
}
