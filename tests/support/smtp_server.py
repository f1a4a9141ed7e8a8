"""A real SMTP server (aiosmtpd) in the test's own loop, that can be told to refuse, to hang, and to drop."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

USER, PASSWORD = "rescind", "p@ss/word: with signs"


class Postbox:
    """Takes mail, and keeps it in `mails`. `say` answers a command (MAIL, RCPT, DATA) in the server's place, once each
    time: with a line, or not at all."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.say: dict[str, str] = {}
        self.hanging = asyncio.Event()  # set while a client waits for an answer that does not come
        self.taken: Callable[[EmailMessage], None] = lambda _: None
        self.logins: list[bytes] = []
        self._server: SMTP | None = None

    def authenticate(self, _server: SMTP, _session: Session, _envelope: Envelope, _way: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login)
        return AuthResult(success=data == LoginPassword(USER.encode(), PASSWORD.encode()), handled=False)

    async def handle_MAIL(self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        return await self._answer("MAIL", server) or self._from(envelope, address)

    async def handle_RCPT(self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        if said := await self._answer("RCPT", server):
            return said
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        said = await self._answer("DATA", server)
        if not said or said == "drop after taking":
            content = envelope.content
            assert isinstance(content, bytes)
            mail = cast("EmailMessage", message_from_bytes(content, policy=default))
            self.mails.append(mail)
            self.recipients.extend(envelope.rcpt_tos)
            self.taken(mail)
        if said == "drop after taking":
            self._drop(server)
        return said or "250 OK"

    async def _answer(self, command: str, server: SMTP) -> str:
        said = self.say.get(command, "")
        if said == "hang":
            self.hanging.set()
            await asyncio.Event().wait()
        if said == "drop":
            self._drop(server)
        return said

    @staticmethod
    def _drop(server: SMTP) -> None:
        assert server.transport is not None
        server.transport.abort()

    @staticmethod
    def _from(envelope: Envelope, address: str) -> str:
        envelope.mail_from = address
        return "250 OK"


@asynccontextmanager
async def smtp_server(
    postbox: Postbox, *, tls: ssl.SSLContext | None = None, starttls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[int]:
    """The server on a free port, which is yielded. `tls` from the first byte, or `starttls` on demand."""
    loop = asyncio.get_running_loop()
    servers: list[SMTP] = []

    def serve() -> SMTP:
        servers.append(
            SMTP(
                postbox, hostname="localhost", loop=loop, tls_context=starttls,
                authenticator=postbox.authenticate, **options,
            )
        )  # fmt: skip
        return servers[-1]

    listener = await loop.create_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for server in servers:
            if server.transport is not None:
                with suppress(AttributeError):  # Python 3.11.2: of TLS that has ended
                    server.transport.abort()
            if server._handler_coroutine is not None:
                server._handler_coroutine.cancel()
                await asyncio.gather(server._handler_coroutine, return_exceptions=True)


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for localhost, made now, and a client's that trusts it and nothing else."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "chain.pem").write_bytes(private + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "chain.pem")
    return server, ssl.create_default_context(cadata=pem.decode())
