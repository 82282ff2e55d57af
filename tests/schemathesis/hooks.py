"""Makes of a request that the description admits one that this host can honour, and of nothing else.

Some of what makes a value right is in no schema: it has to be the caller's own, unique, signed, or in order
with another one. Requests that are meant to be wrong are left as they are, because only values that are
right by the description are changed. Every URL goes to a receiver on loopback, so nothing leaves the machine.
"""

import hashlib
import hmac
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import schemathesis
from requests.compat import json as complexjson
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation

APP_SECRET = b"app-secret"
VERIFY_TOKEN = "verify-token"
NUMBERS = {"acme-key": "919999999999", "beta-key": "917777777777"}
WABAS = {"acme-key": "123065260884961", "beta-key": "2"}
SCHEMAS = None
FRESH = itertools.count(1)


class Receiver(BaseHTTPRequestHandler):
    """Answers by the last character of the path, so that every outcome is met: success, retries, dead letters."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status = {"4": 404, "5": 503, "d": 410, "e": 302}.get(self.path[-1], 200)
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        if self.command != "HEAD":
            try:
                self.wfile.write(b"ok")
            except OSError:
                pass

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = answer

    def log_message(self, *_):
        pass


RECEIVER = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
RECEIVER.daemon_threads = True
threading.Thread(target=RECEIVER.serve_forever, daemon=True).start()
PORT = RECEIVER.server_address[1]

# The host's `since` is no moment before 1970.
schemathesis.openapi.format(
    "date-time",
    st.integers(1970, 9000).flatmap(
        lambda year: st.builds(
            "{}-{:02}-{:02}T{:02}:{:02}:{:02}Z".format,
            st.just(year), st.integers(1, 12), st.integers(1, 28),
            st.integers(0, 23), st.integers(0, 59), st.integers(0, 59),
        )
    ),
)


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    """Of events one a line a schema knows only that they are text."""
    if not isinstance(value, str):
        return json.dumps(value).encode()
    number = NUMBERS.get((ctx.case.headers or {}).get("Authorization"), "917777777777")
    events = ({"type": "ADD_TAG", "number": number, "payload": value, "key": str(line)} for line in range(3))
    return "\n".join(map(json.dumps, events)).encode()


@schemathesis.hook
def after_load_schema(ctx, schema):
    global SCHEMAS
    SCHEMAS = schema.raw_schema["components"]["schemas"]


def is_right(name, value):
    schema = SCHEMAS[name]
    if not isinstance(value, str) or not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 20):
        return False
    return re.search(schema["pattern"], value) is not None


def on_loopback(url):
    """The same path and query at the receiver."""
    rest = re.sub(r"^[a-zA-Z]+://[^/?]*", "", url)
    # The host adds the slash of an empty path.
    return f"http://127.0.0.1:{PORT}{rest}"[:2047]


def is_number(value):
    return type(value) in (int, float)


def in_order(terms, least, most):
    low, high = terms.get(least), terms.get(most)
    if is_number(low) and is_number(high) and low > high > 0:
        terms[least], terms[most] = high, low


def without_repeats(headers):
    """Names that differ in case alone are one header."""
    seen = set()
    return {k: v for k, v in headers.items() if not (k.lower() in seen or seen.add(k.lower()))}


def is_over_the_bounds(condition):
    """A schema can bound neither the levels nor the tests of a condition."""
    text = complexjson.dumps(condition)
    return len(text) > 8192 or text.count('"pointer"') > 16 or text.count('{') > 8


def mend(body, path, key):
    if isinstance(body.get("condition"), dict) and is_over_the_bounds(body["condition"]):
        body["condition"] = None
    url = "Dialog360Url" if "waba" in path or "multi" in path or "configs" in path else "Url"
    if is_right(url, body.get("url")):
        body["url"] = on_loopback(body["url"])
    if isinstance(body.get("headers"), dict):
        body["headers"] = without_repeats(body["headers"])
    if "multi" not in path and is_right("Name", body.get("name")):
        fresh = f" {next(FRESH)}"
        body["name"] = body["name"][: 128 - len(fresh)] + fresh
    # Another subscription that waits for none, and certificates, are not to be had by chance.
    if is_number(body.get("after")):
        body["after"] = None
    if isinstance(body.get("tls"), dict) and any(isinstance(v, str) and v.startswith("-----BEGIN") for v in body["tls"].values()):
        body["tls"] = None
    if isinstance(body.get("secret"), str) and body["secret"].startswith("whsk_") and len(body["secret"]) > 60:
        # The two halves of a key pair belong together.
        body["secret"] = body["secret"][:47] + "A="
    for terms in ("retry", "breaker"):
        if isinstance(body.get(terms), dict):
            in_order(body[terms], "initial_ms", "max_ms")
            in_order(body[terms], "step_ms", "max_ms")
    if isinstance(body.get("breaker"), dict) and is_number(body["breaker"].get("max_ms")):
        # What is left out is at its default, which may be more.
        if body["breaker"].get("initial_ms") is None and 0 < body["breaker"]["max_ms"] < 1000:
            body["breaker"]["max_ms"] = 1000
    if isinstance(body.get("breaker"), dict) and is_number(body["breaker"].get("initial_ms")):
        if body["breaker"].get("max_ms") is None and 300000 < body["breaker"]["initial_ms"] <= 86400000:
            body["breaker"]["initial_ms"] = 300000
    if isinstance(body.get("destinations"), list):
        for destination in body["destinations"]:
            if isinstance(destination, dict):
                mend(destination, path, key)
    if path == "/waba_webhook" and type(body.get("waba_id")) in (int, str):
        if type(body["waba_id"]) is str or 0 <= body["waba_id"] < 1 << 64:
            body["waba_id"] = type(body["waba_id"])(WABAS.get(key, "2"))
    # Every second number is the caller's own, so that events are owed to somebody.
    own = NUMBERS.get(key)
    if own is not None and next(FRESH) % 2:
        if is_right("Number", body.get("number")):
            body["number"] = own
        if isinstance(body.get("numbers"), list) and body["numbers"] and all(is_right("Number", n) for n in body["numbers"]):
            body["numbers"] = [own]
        for field, known in (("wabaNumbers", own), ("webhookEvents", "ADD_TAG")):
            if isinstance(body.get(field), list) and body[field] and all(isinstance(text, str) for text in body[field]):
                body[field] = [*body[field][1:], known]


@schemathesis.hook
def before_call(ctx, case, kwargs):
    headers = case.headers or {}
    key = headers.get("Authorization")
    path = case.operation.path
    if isinstance(case.body, dict):
        mend(case.body, path, key)
        if "json" not in (case.media_type or "json"):
            # A form has no null: what is null is left out.
            case.body = {name: value for name, value in case.body.items() if value is not None}
    if path == "/v1/configs/webhook" and "D360-API-KEY" in headers and "WHIZARD-KEY" in headers:
        # Both gateways have this path; the key that is shown decides.
        del headers[["D360-API-KEY", "WHIZARD-KEY"][next(FRESH) % 2]]
    if path == "/meta/webhook" and case.method == "GET" and isinstance(case.query, dict):
        if isinstance(case.query.get("hub.verify_token"), str) and next(FRESH) % 2:
            case.query["hub.verify_token"] = VERIFY_TOKEN
    is_json = isinstance(case.body, (dict, list, str, int, float, type(None)))
    is_meant = case.meta is None or not case.meta.is_negative_at(ParameterLocation.HEADER)
    if path == "/meta/webhook" and case.method == "POST" and key is not None and is_json and is_meant:
        # As it is going to be sent.
        raw = complexjson.dumps(case.body, allow_nan=False).encode()
        signature = "sha256=" + hmac.new(APP_SECRET, raw, hashlib.sha256).hexdigest()
        headers["X-Hub-Signature-256"] = signature
