"""A receiver that verifies each delivery with a public Python library.

Usage: receiver.py LIBRARY SECRET. Prints its port. Answers 204 to a delivery that the library accepts, and 401 to one
that it refuses.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

library, secret = sys.argv[1:]

if library == "pywa":
    from pywa import WhatsApp, handlers

    client = WhatsApp(
        phone_id="1", token="token", app_secret=secret, server=None, verify_token="token"
    )

    # With handlers the client builds its own types from each update.
    client.add_handlers(
        handlers.MessageHandler(lambda *_: None),
        handlers.MessageStatusHandler(lambda *_: None),
        handlers.TemplateStatusUpdateHandler(lambda *_: None),
    )

    def verify(body, headers):
        refused = client.webhook_update_validator(body, headers.get("X-Hub-Signature-256"))
        if refused:
            return False
        # The client reads the update as it would in a program of its own. Other gateways' bodies are no updates.
        is_update = "entry" in json.loads(body)
        return not is_update or client.webhook_update_handler(body)[1] == 200

else:
    if library == "svix":
        from svix.webhooks import Webhook
    else:
        from standardwebhooks import Webhook

    webhook = Webhook(secret)

    def verify(body, headers):
        try:
            webhook.verify(body, {name.lower(): value for name, value in headers.items()})
        except Exception as error:
            print(f"{library}: {error!r}", file=sys.stderr)
            return False
        return True


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204 if verify(body, self.headers) else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
