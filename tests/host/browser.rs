//! A headless Chromium, driven through WebDriver (W3C). `tests/install-browser` installs both.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::DEADLINE;

/// The key of element references in WebDriver.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// The key code of Enter in WebDriver.
pub(crate) const ENTER: &str = "\u{E007}";

/// One browser with one window, closed on drop.
pub(crate) struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
}

impl Browser {
    /// Starts a browser; prints why and returns `None` where this machine has none.
    pub(crate) fn start(width: u32, height: u32) -> Option<Browser> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut driver) = command.spawn() else {
            assert!(std::env::var_os("WABAHOOK_BROWSER").is_none(), "there is no chromedriver");
            println!("skipped: there is no chromedriver; tests/install-browser installs it");
            return None;
        };
        let stdout = driver.stdout.take().unwrap();
        let (told, port) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let port = line.split("on port ").nth(1).map(|rest| rest.trim_end_matches('.'));
                // The first line repeats the requested port, which is 0.
                let port = port.and_then(|port| port.parse::<u16>().ok());
                if let Some(port) = port.filter(|port| *port != 0) {
                    let _ = told.send(port);
                }
            }
        });
        let port = port.recv_timeout(DEADLINE).expect("chromedriver listens");
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(DEADLINE))
            .build()
            .into();
        let session = format!("http://127.0.0.1:{port}/session");
        let mut browser = Browser { driver, agent, session };
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            &format!("--window-size={width},{height}"),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer = browser.ask("", Some(&capabilities));
        browser.session = format!("{}/{}", browser.session, answer["sessionId"].as_str().unwrap());
        let metrics = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        }});
        browser.ask("/goog/cdp/execute", Some(&metrics));
        Some(browser)
    }

    /// Has the page be seen as on a system with this colour scheme, `light` or `dark`.
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        let media = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        self.ask("/goog/cdp/execute", Some(&media));
    }

    /// Sends a request to the driver; a body makes it a POST.
    fn ask(&self, path: &str, body: Option<&Value>) -> Value {
        let value = self.answer(path, body);
        assert!(value.get("error").is_none(), "{path}: {} {}", value["error"], value["message"]);
        value
    }

    /// Does something to an element, and finds it again where the page has replaced it meanwhile.
    fn act(&self, find: impl Fn() -> String, what: &str, body: &Value) {
        let started = Instant::now();
        loop {
            let value = self.answer(&format!("/element/{}/{what}", find()), Some(body));
            if value.get("error").is_none() {
                return;
            }
            let was_replaced = value["error"] == "stale element reference";
            let why = &value["message"];
            assert!(was_replaced && started.elapsed() < DEADLINE, "{what} {body}: {why}");
        }
    }

    /// The response of the driver, which may be an error.
    fn answer(&self, path: &str, body: Option<&Value>) -> Value {
        let url = format!("{}{path}", self.session);
        let answered = match body {
            Some(body) => self.agent.post(&url).send(body.to_string()),
            None => self.agent.get(&url).call(),
        };
        let text = answered.unwrap().into_body().read_to_string().unwrap();
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        answer["value"].take()
    }

    pub(crate) fn open(&self, url: &str) {
        self.ask("/url", Some(&json!({"url": url})));
    }

    /// The value of a JavaScript expression, once it is neither false, null nor an error.
    pub(crate) fn until(&self, expression: &str) -> Value {
        let script = format!(
            "const done = arguments[0], end = performance.now() + {};
             (function look() {{
               let value = null;
               try {{ value = ({expression}); }} catch (error) {{ value = null; }}
               if (value) done(value);
               else if (performance.now() > end) done(null);
               else setTimeout(look, 20);
             }})();",
            DEADLINE.as_millis() / 2
        );
        let timeouts = json!({"script": u64::try_from(DEADLINE.as_millis()).unwrap()});
        self.ask("/timeouts", Some(&timeouts));
        let value = self.ask("/execute/async", Some(&json!({"script": script, "args": []})));
        assert!(!value.is_null(), "never: {expression}\n{}", self.text("body"));
        value
    }

    /// Runs a script.
    pub(crate) fn run(&self, script: &str) {
        self.ask("/execute/sync", Some(&json!({"script": script, "args": []})));
    }

    /// Runs a script that calls `done` with its result.
    pub(crate) fn run_async(&self, script: &str) -> Value {
        let timeouts = json!({"script": u64::try_from(DEADLINE.as_millis()).unwrap()});
        self.ask("/timeouts", Some(&timeouts));
        let script = format!("const done = arguments[0]; {script}");
        self.ask("/execute/async", Some(&json!({"script": script, "args": []})))
    }

    fn element(&self, css: &str) -> String {
        self.until(&format!("document.querySelector({})", json!(css)))[ELEMENT]
            .as_str()
            .unwrap_or_else(|| panic!("no element {css}"))
            .to_owned()
    }

    /// Clicks the button, link or option with this text inside the element `css`. Fails where something covers it.
    pub(crate) fn press(&self, css: &str, text: &str) {
        let find = format!(
            "[...document.querySelectorAll({})].flatMap((one) => [...one.querySelectorAll('button, a, \
             summary, label, option')]).find((one) => one.textContent.trim() === {})",
            json!(css),
            json!(text)
        );
        let button = || self.until(&find)[ELEMENT].as_str().unwrap().to_owned();
        self.act(button, "click", &json!({}));
    }

    pub(crate) fn keys(&self, css: &str, text: &str) {
        self.act(|| self.element(css), "value", &json!({"text": text}));
    }

    /// Replaces the text of an input.
    pub(crate) fn fill(&self, css: &str, text: &str) {
        self.act(|| self.element(css), "clear", &json!({}));
        self.keys(css, text);
    }

    pub(crate) fn text(&self, css: &str) -> String {
        let script = format!("return document.querySelector({})?.innerText ?? ''", json!(css));
        let value = self.ask("/execute/sync", Some(&json!({"script": script, "args": []})));
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the element `css` has this text.
    pub(crate) fn until_says(&self, css: &str, text: &str) {
        let said =
            format!("document.querySelector({})?.innerText.includes({})", json!(css), json!(text));
        self.until(&said);
    }

    /// The errors of the page: failed scripts and refused loads, but no error responses of the host.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.ask("/se/log", Some(&json!({"type": "browser"})));
        let entries = log.as_array().cloned().unwrap_or_default().into_iter();
        let bad =
            entries.filter(|entry| entry["level"] == "SEVERE" && entry["source"] != "network");
        bad.map(|entry| entry["message"].to_string()).collect()
    }

    /// Saves a picture of the window where `WABAHOOK_SCREENSHOTS` names a directory.
    pub(crate) fn picture(&self, name: &str) {
        let Some(directory) = std::env::var_os("WABAHOOK_SCREENSHOTS") else { return };
        let encoded = self.ask("/screenshot", None);
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.as_str().unwrap());
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), bytes.unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
