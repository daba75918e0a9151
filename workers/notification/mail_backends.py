"""Where mails go: an SMTP server, or files in the state folder."""

import os
import smtplib
import ssl
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

TIMEOUT = 10  # seconds
_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_FILES = {"cacertfile", "certfile", "keyfile"}


class Refused(Exception):
    """The server refused the mail for good; a retry would not help."""


class MailBackend(Protocol):
    def send(self, mail: EmailMessage) -> None:
        """Raises Refused, or OSError if a retry may succeed."""
        ...


def mail_backend(smtp_url: str, folder: Path) -> MailBackend:
    """The server at `smtp_url`; without one, files in `folder`."""
    return SmtpServer(smtp_url) if smtp_url else MailFolder(folder)


class MailFolder:
    """One .eml file a mail, named by its Message-ID; the same mail again overwrites itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, mail: EmailMessage) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = str(mail["Message-ID"]).strip("<>").partition("@")[0]
        temporary = self._folder / f".{name}"
        temporary.write_bytes(bytes(mail))
        os.replace(temporary, self._folder / f"{name}.eml")


class SmtpServer:
    """smtp://, smtp+starttls:// or smtps://, with user and password in the URL where needed.

    The latter two verify the server's certificate and name; a query may name files for that:
    `cacertfile` with the authorities to trust, `certfile` and `keyfile` of the client.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            self._host = parts.hostname or ""
            standard = _PORTS[parts.scheme]
            self._port = parts.port or standard
            self._user = unquote(parts.username or "")
            self._password = unquote(parts.password or "")
            files = dict(parse_qsl(parts.query, keep_blank_values=True))
            fits = (
                bool(self._host)
                and (self._user + self._password).isascii()
                and files.keys() <= _FILES
                and not (files and parts.scheme == "smtp")
                and ("certfile" in files or "keyfile" not in files)
            )
        except (ValueError, KeyError):
            fits = False
        if not fits:
            # Outside of the handler: the library's error quotes parts of the password.
            raise ValueError(
                "NOTIFICATION_SMTP_URL must be smtp://, smtp+starttls:// or smtps://host:port;"
                " user and password are ASCII, with / ? # [ ] @ : and % as %2F and so on;"
                " ?cacertfile=...&certfile=...&keyfile=... may follow where there is TLS"
            )
        for name, file in files.items():
            if not Path(file).is_file():
                raise ValueError(f"NOTIFICATION_SMTP_URL: {name} is not a file: {file}")
        self._scheme = parts.scheme
        self._tls = ssl.create_default_context(cafile=files.get("cacertfile"))
        if "certfile" in files:
            self._tls.load_cert_chain(files["certfile"], files.get("keyfile"))

    def send(self, mail: EmailMessage) -> None:
        server = self._connect()
        try:
            if self._user:
                server.login(self._user, self._password)
            server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            if all(code >= 500 for code in codes):
                raise Refused(f"every recipient was refused: {codes}") from error
            raise
        except smtplib.SMTPResponseException as error:
            # 5xx to the mail itself; a refused login may be mended, and is retried.
            if error.smtp_code >= 500 and not isinstance(error, smtplib.SMTPAuthenticationError):
                raise Refused(f"{error.smtp_code} {error.smtp_error!r}") from error
            raise
        finally:
            with suppress(OSError):  # the mail was accepted or refused before
                server.quit()

    def _connect(self) -> smtplib.SMTP:
        if self._scheme == "smtps":
            return smtplib.SMTP_SSL(self._host, self._port, timeout=TIMEOUT, context=self._tls)
        server = smtplib.SMTP(self._host, self._port, timeout=TIMEOUT)
        if self._scheme == "smtp+starttls":
            server.starttls(context=self._tls)
        return server
