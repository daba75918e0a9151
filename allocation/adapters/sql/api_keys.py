"""API keys: shown once, kept as a hash, taken back by their id."""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, Row, insert, select, update

from allocation.adapters.sql.tables import api_keys

READ = "read"
WRITE = "write"
SCOPES = (READ, WRITE)
REMEMBERED = 1.0
"""Seconds for which a process caches that a key is valid, or that no key is required."""

_PREFIX = "alloc"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; `id` is no secret, and part of the key's text."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A key as the database keeps it: enough to recognise its text, not to tell it."""

    key: ApiKey
    digest: str

    def opens_with(self, secret: str) -> bool:
        """Whether the key is valid and this is its secret; as long as it takes for any other."""
        same = hmac.compare_digest(self.digest, _digest(secret))
        return same and self.key.revoked_at is None


class ApiKeys:
    """The keys of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, name: str, scopes: Collection[str]) -> tuple[ApiKey, str]:
        """A new key, and its text, which nobody can find out again."""
        secret = secrets.token_urlsafe(32)
        key = ApiKey(
            id=secrets.token_hex(6),
            name=name,
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            created_at=datetime.now(UTC),
            revoked_at=None,
        )
        with self._engine.begin() as connection:
            connection.execute(
                insert(api_keys).values(
                    id=key.id,
                    name=name,
                    scopes=" ".join(key.scopes),
                    digest=_digest(secret),
                    created_at=key.created_at,
                )
            )
        return key, f"{_PREFIX}_{key.id}_{secret}"

    def all(self) -> Sequence[ApiKey]:
        """Every key, the oldest first; those that were revoked too."""
        with self._engine.connect() as connection:
            query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
            return [_key(row) for row in connection.execute(query)]

    def any_valid(self) -> bool:
        """Whether there is a key that was not revoked."""
        with self._engine.connect() as connection:
            valid = select(api_keys.c.id).where(api_keys.c.revoked_at.is_(None)).limit(1)
            return connection.scalar(valid) is not None

    def any_made(self) -> bool:
        """Whether there is a key, revoked or not."""
        with self._engine.connect() as connection:
            return connection.scalar(select(api_keys.c.id).limit(1)) is not None

    def revoke(self, key_id: str) -> bool:
        """Take the key back; False when there is none of this id that is still valid."""
        with self._engine.begin() as connection:
            revoked = connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=datetime.now(UTC))
            )
            return revoked.rowcount == 1

    def find(self, key_id: str) -> KeptKey | None:
        """The key with this id, revoked or not."""
        with self._engine.connect() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
        return KeptKey(_key(row), row.digest) if row else None


def parts(text: str) -> tuple[str, str] | None:
    """Id and secret of a key's text; None when it does not have the form of one."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    well_formed = prefix == _PREFIX and key_id.isascii() and key_id.isalnum() and secret
    return (key_id[:32], secret) if well_formed else None


def _digest(secret: str) -> str:
    # The secret is 256 random bits: nothing is gained by a slow hash.
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(row.id, row.name, tuple(row.scopes.split()), row.created_at, row.revoked_at)
