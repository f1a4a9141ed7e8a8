"""A native app's sign-in (RFC 8252): the system's browser, code + PKCE, and a loopback redirect.

    python examples/native.py                 opens a browser, then prints your orders

A phone does the same with a claimed https link instead of the loopback server, and a key store instead of memory. The
app is a public client: it has no secret, because whatever is shipped to people is no secret.
"""

import argparse
import base64
import hashlib
import http.server
import secrets
import sys
import webbrowser
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2

CLIENT = "mobile"
SCOPE = "openid profile offline_access orders:read"
PATIENCE = 300.0  # seconds that a person has to sign in
DONE = (
    b"<!doctype html><meta charset=utf-8><title>Signed in</title><p>You can close this window and go back to the app."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came to the loopback address."""

    state: str
    issuer: str
    code: str
    error: str


class Loopback(http.server.HTTPServer):
    """Listens on a port of the system's choosing, for one answer to `/callback`."""

    timeout = PATIENCE

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Callback)
        self.answer: Answer | None = None

    @property
    def redirect_uri(self) -> str:
        """Any port is allowed for a loopback address (section 7.3)."""
        return f"http://127.0.0.1:{self.server_port}/callback"

    def wait(self) -> Answer:
        """Serves until the answer is there; browsers ask for other things as well, an icon for instance."""
        while self.answer is None:
            self.handle_request()
        return self.answer

    def handle_timeout(self) -> None:
        """Nobody signed in."""
        raise TimeoutError(f"nobody signed in within {PATIENCE:.0f} s")


class _Callback(http.server.BaseHTTPRequestHandler):
    server: Loopback

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path != "/callback":
            self.send_error(404)
            return
        said = {name: values[0] for name, values in parse_qs(parts.query).items()}
        got = (said.get(name, "") for name in ("state", "iss", "code", "error"))
        self.server.answer = Answer(*got)
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("referrer-policy", "no-referrer")  # the code is in this page's address
        self.end_headers()
        self.wfile.write(DONE)

    def log_message(self, *_: object) -> None:
        """Says nothing: the request line has the code in it."""


def sign_in(issuer: str, open_browser: bool) -> dict[str, str]:
    """The token response, after a person has signed in.

    Raises:
        PermissionError: they refused, or the answer is not to our question.
    """
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    with Loopback() as loopback, httpx2.Client(timeout=10, trust_env=False) as web:
        at = web.get(f"{issuer}/.well-known/openid-configuration").raise_for_status().json()
        asked = {"response_type": "code", "client_id": CLIENT, "redirect_uri": loopback.redirect_uri, "scope": SCOPE}
        asked |= {"state": state, "code_challenge": challenge, "code_challenge_method": "S256"}
        url = f"{at['authorization_endpoint']}?{urlencode(asked | {'resource': 'urn:rescind:orders'})}"
        print(f"Sign in here: {url}", file=sys.stderr, flush=True)
        if open_browser:
            webbrowser.open(url)
        answer = loopback.wait()
        if answer.state != state or answer.issuer != issuer:  # RFC 9700 section 4.7, RFC 9207
            raise PermissionError("that answer belongs to another question")
        if answer.error:
            raise PermissionError(f"identity says {answer.error}")
        form = {"grant_type": "authorization_code", "client_id": CLIENT, "code": answer.code, "code_verifier": verifier}
        tokens = web.post(at["token_endpoint"], data=form | {"redirect_uri": loopback.redirect_uri})
        granted: dict[str, str] = tokens.raise_for_status().json()
        return granted


def main() -> None:
    """Signs in, and lists the person's orders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--issuer", default="http://localhost:8001")
    parser.add_argument("--orders", default="http://localhost:8002")
    parser.add_argument("--no-browser", action="store_true", help="only print the address to open")
    told = parser.parse_args()
    tokens = sign_in(told.issuer, not told.no_browser)
    with httpx2.Client(base_url=told.orders, timeout=10, trust_env=False) as web:
        bearer = {"authorization": f"Bearer {tokens['access_token']}"}
        orders = web.get("/v1/orders", headers=bearer).raise_for_status().json()["orders"]
    print(f"{len(orders)} orders; access for {tokens['scope']}")
    for order in orders:
        print(order["id"], order["status"], ", ".join(f"{item['quantity']} × {item['sku']}" for item in order["items"]))


if __name__ == "__main__":
    main()
