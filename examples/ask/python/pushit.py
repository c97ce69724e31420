"""A backend for pushit's guard ask. It answers each request, so make sure that only Caddy can reach it."""
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USERS = {  # by token
    "ann-secret": {"user": "ann", "claims": {"role": "editor"}},
    "bob-secret": {"user": "bob", "claims": {"role": "reader"}},
}


def answer(q):
    gate, channel, agent = q["gate"], q.get("channel"), q["agent"]
    if gate == "connect":
        user = USERS.get((q.get("credentials") or {}).get("token"))
        return (200, user) if user else (403, "wrong token")
    if gate == "subscribe":
        mine = agent["user"] is not None and channel == f"users/{agent['user']}"
        return (200, {}) if mine or channel == "news" else (403, "this channel is not yours")
    if gate != "publish":
        return 400, "not a question"
    if channel != "news" or agent.get("claims", {}).get("role") != "editor":
        return 403, "only editors write here"
    text = q["message"]["data"].get("text", "").strip()
    return (200, {"data": {"from": agent["user"], "text": text}}) if text else (204, "")


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            status, said = answer(json.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError):
            status, said = 400, "not a question"
        plain = isinstance(said, str)
        said = (said if plain else json.dumps(said)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if plain else "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8081"))), Backend).serve_forever()
