"""A small OAuth 2.0 client and the browser it needs: sign-in, consent, code + PKCE, refresh, over real HTTP.

The demo story and the tests go through identity's front door with it, as a stranger's client would:

    browser = Browser(http, "http://localhost:8001")
    client = OAuthClient(http, "http://localhost:8001", "mobile", redirect_uri="http://127.0.0.1:7777/callback")
    tokens = await client.sign_in(browser, ALICE, PASSWORD, scope="openid orders:read", resource=ORDERS)
    tokens = await client.refresh(tokens)

Two things in it are not as in any client. The redirect to the client is read from the Location header and not
followed, so nobody has to listen there. And cookies are kept by hand: browsers send `Secure` cookies to
http://localhost, Python's cookie jars do not.

It is one file, though a long one, so that it can be read and copied whole.
"""

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, quote_plus, urlencode, urljoin, urlsplit

import httpx2

_LONGEST_COOKIE = 4096  # bytes of name and value; browsers ignore a longer one (RFC 6265bis section 5.6)
_MOST_STEPS = 10  # of one walk through redirects and forms; a longer one goes round in circles
_REDIRECTS = (301, 302, 303, 307, 308)


class FlowFailed(Exception):
    """Identity did not do what the flow needs: the text says at which step, with what status."""


class Refused(FlowFailed):
    """An OAuth error (RFC 6749 sections 4.1.2.1 and 5.2). `error` is its code."""

    def __init__(self, error: str, description: str = "", *, status: int = 0) -> None:
        super().__init__(f"{error}: {description}" if description else error)
        self.error = error
        self.description = description
        self.status = status


@dataclass(frozen=True, slots=True)
class Tokens:
    """A token response (RFC 6749 section 5.1)."""

    access_token: str = field(repr=False)
    expires_in: int
    scope: str
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Form:
    """A form on a page: where it posts to, and its fields as they are filled in already."""

    action: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """A page as a person sees it."""

    url: str
    status: int
    forms: tuple[Form, ...]
    text: str

    def form(self, path: str) -> Form:
        """The form that posts to `path`.

        Raises:
            FlowFailed: there is none on this page.
        """
        for form in self.forms:
            if urlsplit(form.action).path == path:
                return form
        raise FlowFailed(f"no form for {path} on {urlsplit(self.url).path} ({self.status})")


class Browser:
    """A person's browser at one origin: cookies, redirects, forms. It runs no scripts, and needs none."""

    def __init__(self, http: httpx2.AsyncClient, origin: str) -> None:
        self._http = http
        self._origin = origin
        self.cookies: dict[str, str] = {}

    async def get(self, url: str) -> httpx2.Response:
        """One request, redirects not followed."""
        return await self._request("GET", url, None)

    async def post(self, url: str, fields: Mapping[str, str]) -> httpx2.Response:
        """One form post, redirects not followed."""
        return await self._request("POST", url, fields)

    async def open(self, url: str) -> Page:
        """Follows redirects to a page.

        Raises:
            FlowFailed: they lead away from this origin.
        """
        arrived = await self.walk(await self.get(url))
        if isinstance(arrived, str):
            raise FlowFailed(f"redirected away to {urlsplit(arrived).netloc}")
        return arrived

    async def submit(self, page: Page, path: str, **values: str) -> Page | str:
        """Fills in the form that posts to `path`, sends it, and follows redirects as `walk` does."""
        form = page.form(path)
        return await self.walk(await self.post(form.action, {**form.fields, **values}))

    async def walk(self, response: httpx2.Response) -> Page | str:
        """Follows redirects inside this origin: the page at their end, or the first address outside."""
        for _ in range(_MOST_STEPS):
            if response.status_code not in _REDIRECTS:
                return _page(response)
            target = urljoin(str(response.url), response.headers["location"])
            if not self._is_here(target):
                return target
            response = await self.get(target)
        raise FlowFailed("redirects without end")

    async def sign_out(self) -> Page:
        """Ends the login session through the account page; returns once identity has acknowledged it.

        Raises:
            FlowFailed: nobody is signed in here.
        """
        arrived = await self.submit(await self.open(self._origin + "/account"), "/logout")
        if isinstance(arrived, str):
            raise FlowFailed("sign-out led away from identity")
        return arrived

    async def change_password(self, current: str, new: str) -> Page:
        """Changes the password through the account page; the page that answers.

        Raises:
            FlowFailed: nobody is signed in here, or the password was not changed.
        """
        page = await self.open(self._origin + "/account")
        arrived = await self.submit(page, "/password", current_password=current, new_password=new)
        if isinstance(arrived, str) or arrived.status != 200:
            raise FlowFailed("the password was not changed")
        return arrived

    async def _request(self, method: str, url: str, fields: Mapping[str, str] | None) -> httpx2.Response:
        url = urljoin(self._origin + "/", url)
        if not self._is_here(url):
            raise FlowFailed(f"this browser stays at {self._origin}")
        headers = {"accept": "text/html"}
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        response = await self._http.request(method, url, data=fields, headers=headers, follow_redirects=False)
        for line in response.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                if len(name) + len(morsel.value) > _LONGEST_COOKIE:
                    continue
                if morsel["max-age"] == "0" or not morsel.value:
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        return response

    def _is_here(self, url: str) -> bool:
        here, there = urlsplit(self._origin), urlsplit(url)
        return (here.scheme, here.netloc) == (there.scheme, there.netloc)


@dataclass(frozen=True, slots=True)
class Started:
    """An authorization request on its way: what the answer is checked against."""

    url: str
    state: str
    nonce: str
    verifier: str = field(repr=False)


class OAuthClient:
    """A client registered at identity. Without a secret it is a public one.

    `entropy(n)` gives n unpredictable bytes, as `secrets.token_bytes`.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        issuer: str,
        client_id: str,
        *,
        secret: str | None = None,
        redirect_uri: str = "",
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._http = http
        self._issuer = issuer
        self.client_id = client_id
        self._secret = secret
        self._redirect_uri = redirect_uri
        self._entropy = entropy

    async def sign_in(
        self,
        browser: Browser,
        email: str,
        password: str,
        *,
        scope: str,
        resource: str | Sequence[str] = (),
        consent: str = "allow",
    ) -> Tokens:
        """The whole way: authorize, sign in where asked, decide where asked, redeem the code.

        Raises:
            Refused: identity said no, with an OAuth error.
            FlowFailed: the password was wrong, or a step was not as expected.
        """
        started = self.start(scope=scope, resource=resource)
        code = await self.authorize(browser, started, email, password, consent=consent)
        return await self.redeem(started, code)

    def start(self, *, scope: str, resource: str | Sequence[str] = (), **more: str) -> Started:
        """An authorization request (RFC 6749 section 4.1.1, RFC 7636 with S256, RFC 8707); `more` goes into its URL."""
        state, nonce, verifier = (_base64url(self._entropy(32)) for _ in range(3))
        parameters: list[tuple[str, str]] = [
            ("response_type", "code"),
            ("client_id", self.client_id),
            ("redirect_uri", self._redirect_uri),
            ("scope", scope),
            ("state", state),
            ("nonce", nonce),
            ("code_challenge", _base64url(hashlib.sha256(verifier.encode()).digest())),
            ("code_challenge_method", "S256"),
            *(("resource", one) for one in _several(resource)),
            *more.items(),
        ]
        return Started(f"{self._issuer}/authorize?{urlencode(parameters)}", state, nonce, verifier)

    async def authorize(
        self, browser: Browser, started: Started, email: str, password: str, *, consent: str = "allow"
    ) -> str:
        """Takes a browser through sign-in and consent, as far as they are asked for; the code.

        Raises:
            Refused: identity sent an error to the client.
            FlowFailed: the password was wrong, or a page was not as expected.
        """
        arrived = await browser.walk(await browser.get(started.url))
        for _ in range(_MOST_STEPS):
            if isinstance(arrived, str):
                return self.code_from(started, arrived)
            asked = {urlsplit(form.action).path for form in arrived.forms}
            if arrived.status == 200 and "/login" in asked:
                arrived = await browser.submit(arrived, "/login", email=email, password=password)
            elif arrived.status == 200 and "/consent" in asked:
                arrived = await browser.submit(arrived, "/consent", decision=consent)
            else:
                raise FlowFailed(f"{urlsplit(arrived.url).path} answered {arrived.status}: {arrived.text}")
        raise FlowFailed("asked to sign in again and again")

    def code_from(self, started: Started, location: str) -> str:
        """The code in the address that identity redirected to, once state and issuer (RFC 9207) have been checked.

        Raises:
            Refused: the address carries an error instead.
            FlowFailed: it is not this client's address, or not the answer to this request.
        """
        address, _, query = location.partition("?")
        if address != self._redirect_uri:
            raise FlowFailed("redirected to an address that is not this client's")
        answer = {name: values[0] for name, values in parse_qs(query).items()}
        if answer.get("state") != started.state:
            raise FlowFailed("the answer carries another state")
        if answer.get("iss") != self._issuer:
            raise FlowFailed("the answer is from another issuer")
        if "error" in answer:
            raise Refused(answer["error"], answer.get("error_description", ""))
        return answer["code"]

    async def redeem(self, started: Started, code: str, **more: str) -> Tokens:
        """Tokens for a code. `more` goes into the request (`resource`, for instance).

        Raises:
            Refused: the code or this client is no good.
        """
        return await self.token(
            grant_type="authorization_code",
            code=code,
            redirect_uri=self._redirect_uri,
            code_verifier=started.verifier,
            **more,
        )

    async def refresh(self, tokens: Tokens, **more: str) -> Tokens:
        """New tokens for the refresh token in `tokens`, which is spent by it.

        Raises:
            Refused: it is no good any more.
        """
        if tokens.refresh_token is None:
            raise FlowFailed("there is no refresh token: ask for offline_access")
        return await self.token(grant_type="refresh_token", refresh_token=tokens.refresh_token, **more)

    async def client_credentials(self, **more: str) -> Tokens:
        """A token for this client itself (RFC 6749 section 4.4); `more` may hold `scope` and `resource`.

        Raises:
            Refused: the client may not.
        """
        return await self.token(grant_type="client_credentials", **more)

    async def token(self, **parameters: str) -> Tokens:
        """A request to the token endpoint.

        Raises:
            Refused: with the error of the answer.
        """
        response = await self.post("/token", **parameters)
        answer = response.json()
        if response.status_code != 200:
            raise Refused(
                answer.get("error", answer.get("reason", "")),
                answer.get("error_description", answer.get("detail", "")),
                status=response.status_code,
            )
        return Tokens(
            access_token=answer["access_token"],
            expires_in=answer["expires_in"],
            scope=answer.get("scope", ""),
            refresh_token=answer.get("refresh_token"),
            id_token=answer.get("id_token"),
        )

    async def revoke(self, token: str) -> None:
        """Gives a token back (RFC 7009); returns once identity has acknowledged it.

        Raises:
            Refused: this client may not.
        """
        response = await self.post("/revoke", token=token)
        if response.status_code != 200:
            raise Refused(response.json().get("error", ""), status=response.status_code)

    async def introspect(self, token: str) -> dict[str, object]:
        """What identity says of a token (RFC 7662).

        Raises:
            Refused: this client may not ask.
        """
        response = await self.post("/introspect", token=token)
        answer: dict[str, object] = response.json()
        if response.status_code != 200:
            raise Refused(str(answer.get("error", "")), status=response.status_code)
        return answer

    async def post(self, path: str, **parameters: str) -> httpx2.Response:
        """A request to one of identity's OAuth endpoints, authenticated as this client is (RFC 6749 section 2.3.1)."""
        headers = {}
        if self._secret is None:
            parameters["client_id"] = self.client_id
        else:
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self._secret)}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return await self._http.post(self._issuer + path, data=parameters, headers=headers)


class _FormReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((attributes.get("action", ""), {}))
        elif tag == "input" and self.forms and "name" in attributes:
            self.forms[-1][1][attributes["name"]] = attributes.get("value", "")
        elif tag in ("title", "style", "script"):
            self._silent += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("title", "style", "script"):
            self._silent -= 1

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.extend(data.split())


def _page(response: httpx2.Response) -> Page:
    reader = _FormReader()
    if response.headers.get("content-type", "").startswith("text/html"):
        reader.feed(response.text)
    url = str(response.url)
    forms = tuple(Form(urljoin(url, action), fields) for action, fields in reader.forms)
    return Page(url, response.status_code, forms, " ".join(reader.words) or response.text)


def _several(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
