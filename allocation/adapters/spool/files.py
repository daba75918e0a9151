"""The embedded broker's files: queues as folders, messages as files, claims as locks.

    queues/<queue>/<message>          ready messages, oldest first by name
    delayed/<queue>/<message>         messages that are ready at the time in their name
    owners/<owner>/lock               held by a living process; the kernel drops it when that dies
    owners/<owner>/claims/<queue>/    messages that this process holds
    owners/<owner>/queues/<queue>     its exclusive queues, which go when it goes
    damaged/<queue>/<message>         messages that can't be read, set aside
    control/exchanges/<exchange>      type and bindings
    control/queues/<queue>            arguments

Every file is written under a temporary name and moved, so none is ever seen half-written. That
holds when a process dies, not when the power fails: only what is under control/ is forced to the
disk, messages are not. A message that the power failure left empty is set aside.
"""

import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote
from uuid import uuid4

import structlog

log = structlog.get_logger(__name__)

Payload = dict[str, Any]
T = TypeVar("T")

ROOM = 2**20
"""Bytes that must be free for messages to be delivered: a commit of the embedded database and the
messages of its events need space."""

TICK = 50_000_000
"""Nanoseconds: within a tick of the file system's clock a second change of a folder or a file does
not show, and no tick is longer."""

_counter = itertools.count()
_owners: dict[tuple[Path, int], "Owner"] = {}


@dataclass(frozen=True, slots=True)
class Claim:
    """A message that this process holds: its queue, its file name, and its earlier deliveries."""

    queue: str
    name: str

    @property
    def deliveries(self) -> int:
        return int(self.name.rpartition(".")[2])

    def path(self, owner: Path) -> str:
        return f"{owner}/claims/{_file(self.queue)}/{self.name}"


class Owner:
    """This process's folder of claims, locked for as long as the process lives.

    The lock is a POSIX record lock: a forked child does not inherit it, so a child that outlives
    its killed parent does not keep the parent's claims. Such a lock is lost when the process
    closes any descriptor of the file, so each process opens its own lock file just once.
    """

    def __init__(self, folder: Path) -> None:
        name = uuid4().hex
        # Locked before it gets the name under which others look for it.
        new = folder / f".new-{name}"
        (new / "claims").mkdir(parents=True)
        (new / "queues").mkdir()
        self._lock = (new / "lock").open("w")
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        self.path = folder / name
        new.rename(self.path)

    @classmethod
    def of_this_process(cls, folder: Path) -> "Owner":
        key = (folder, os.getpid())
        if key in _owners:
            return _owners[key]
        # Two threads may come first: a second owner would look dead to the first one's sweep, as
        # such a lock keeps no thread of its own process out.
        made = cls(folder)
        kept = _owners.setdefault(key, made)
        if kept is not made:
            made._lock.close()
            shutil.rmtree(made.path, ignore_errors=True)
        return kept


class Files:
    """One spool folder. Methods may be called by many processes at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._queues = folder / "queues"
        self._delayed = folder / "delayed"
        self._damaged = folder / "damaged"
        self._owners = folder / "owners"
        self._temporary = folder / "tmp"
        self._exchanges = folder / "control" / "exchanges"
        self._arguments = folder / "control" / "queues"
        for each in (
            *(self._queues, self._delayed, self._owners, self._temporary),
            *(self._exchanges, self._arguments),
        ):
            each.mkdir(parents=True, exist_ok=True)
        # The ready messages that were listed and not taken yet, the oldest last.
        self._names: dict[str, list[str]] = {}
        # What was found in folders and files, with the time of their last change.
        self._seen: dict[str, tuple[int, Any]] = {}
        self._declared: dict[str, Payload] = {}

    @property
    def owner(self) -> Path:
        return Owner.of_this_process(self._owners).path

    # Messages

    def put(self, queue: str, payload: Payload, due: int = 0) -> bool:
        """Append a message; False when there is no such queue.

        It is ready at the time `due`, in nanoseconds as `time.time_ns` counts them.
        """
        now = time.time_ns()
        name = f"{max(due, now):020d}-{next(_counter):010d}-{uuid4().hex[:8]}.0"
        folder = f"{self._queues}/{_file(queue)}"
        if due > now:
            if not self.has_queue(queue):
                return False
            folder = f"{self._delayed}/{_file(queue)}"
            os.makedirs(folder, exist_ok=True)
        return self._move_in(f"{folder}/{name}", json.dumps(payload))

    def claim(self, queue: str) -> tuple[Claim, Payload] | None:
        """Take the oldest ready message; nobody else gets it until it is given back."""
        folder = f"{self._queues}/{_file(queue)}"
        names = self._names.get(queue) or self._list(queue, folder)
        held = f"{self.owner}/claims/{_file(queue)}"
        while names:
            name = names.pop()
            taken = f"{held}/{name}"
            try:
                os.rename(f"{folder}/{name}", taken)
            except FileNotFoundError:
                if not os.path.exists(held):
                    os.makedirs(held, exist_ok=True)
                    names.append(name)
                continue  # or somebody else was faster
            try:
                return Claim(queue, name), json.loads(_read(taken))
            except ValueError as error:
                self._set_aside(taken, queue, error)
        return None

    def done(self, claim: Claim) -> None:
        """The message was handled: it is gone."""
        with suppress(FileNotFoundError):
            os.unlink(claim.path(self.owner))

    def give_back(self, claim: Claim) -> None:
        """Put the message back into its old place, with one more delivery counted."""
        self._give_back(claim, self.owner, claim.deliveries + 1)

    def give_back_untried(self, claim: Claim) -> None:
        """Put the message back into its old place, without counting a delivery."""
        self._give_back(claim, self.owner, claim.deliveries)

    def is_full(self) -> bool:
        """Whether the disk has fewer than ROOM bytes free.

        Raises OSError if the folder does not exist.
        """
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize < ROOM

    def purge(self, queue: str) -> int:
        """Drop the ready messages; how many there were."""
        dropped = 0
        for name in self._listed(queue):
            try:
                (self._queues / _file(queue) / name).unlink()
                dropped += 1
            except FileNotFoundError:
                pass  # claimed meanwhile
        return dropped

    def size(self, queue: str) -> int:
        """How many messages are ready."""
        return len(self._listed(queue))

    def holders(self, queue: str) -> int:
        """How many processes hold messages of the queue."""
        held = self._owners.glob(f"*/claims/{_file(queue)}/*")
        return len({message.parts[-4] for message in held})

    def read(self, claim: Claim) -> Payload:
        """The message of a claim."""
        return dict(json.loads(_read(claim.path(self.owner))))

    # Queues and exchanges

    def has_queue(self, queue: str) -> bool:
        return (self._queues / _file(queue)).is_dir()

    def make_queue(self, queue: str, arguments: Payload, *, exclusive: bool) -> None:
        """Make the queue unless it is there; an exclusive one goes with this process."""
        if exclusive:
            (self.owner / "queues" / _file(queue)).touch()
        self._move_in(f"{self._arguments}/{_file(queue)}", json.dumps(arguments), lasting=True)
        self._declared[queue] = arguments
        (self._queues / _file(queue)).mkdir(exist_ok=True)

    def arguments(self, queue: str) -> Payload:
        """What the queue was declared with."""
        if queue not in self._declared:
            self._declared[queue] = self._load(self._arguments / _file(queue)) or {}
        return self._declared[queue]

    def remove_queue(self, queue: str) -> None:
        """Drop the queue, its messages and its bindings."""
        for file in self._exchanges.iterdir():
            with self.changing_exchange(unquote(file.name)) as exchange:
                exchange["bindings"] = [b for b in exchange["bindings"] if b[2] != queue]
        (self._arguments / _file(queue)).unlink(missing_ok=True)
        self._declared.pop(queue, None)
        (self.owner / "queues" / _file(queue)).unlink(missing_ok=True)
        for folder in (self._queues, self._delayed):
            shutil.rmtree(folder / _file(queue), ignore_errors=True)

    def exchange(self, exchange: str) -> Payload | None:
        """Type, arguments and bindings of an exchange, or None."""
        return self._look(f"{self._exchanges}/{_file(exchange)}", self._load)

    def exchanges(self) -> list[str]:
        return [unquote(file.name) for file in self._exchanges.iterdir()]

    @contextmanager
    def changing_exchange(self, exchange: str) -> Iterator[Payload]:
        """The exchange, to be changed in place by one process at a time, and saved at the end."""
        with (self._folder / "control" / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self._load(self._exchanges / _file(exchange)) or {"bindings": []}
            yield found
            text = json.dumps(found)
            self._move_in(f"{self._exchanges}/{_file(exchange)}", text, lasting=True)

    def remove_exchange(self, exchange: str) -> None:
        (self._exchanges / _file(exchange)).unlink(missing_ok=True)

    # Dead processes

    def sweep(self) -> None:
        """Give back the claims of dead processes, and drop their exclusive queues."""
        for owner in self._owners.iterdir():
            if owner == self.owner or owner.name.startswith("."):
                continue  # testing our own lock would drop it
            with _lock_if_dead(owner / "lock") as dead:
                if not dead:
                    continue
                for file in sorted(owner.glob("claims/*/*")):
                    claim = Claim(unquote(file.parent.name), file.name)
                    self._give_back(claim, owner, claim.deliveries + 1)
                for file in (owner / "queues").glob("*"):
                    self.remove_queue(unquote(file.name))
                shutil.rmtree(owner, ignore_errors=True)

    def _give_back(self, claim: Claim, owner: Path, deliveries: int) -> None:
        name = f"{claim.name.rpartition('.')[0]}.{deliveries}"
        # Not found: the queue was removed, and its messages with it; or another gave it back.
        with suppress(FileNotFoundError):
            os.rename(claim.path(owner), f"{self._queues}/{_file(claim.queue)}/{name}")
        self._names.pop(claim.queue, None)

    def _list(self, queue: str, folder: str) -> list[str]:
        """The ready messages, the oldest last."""
        delayed = f"{self._delayed}/{_file(queue)}"
        now = f"{time.time_ns():020d}"
        waiting = self._look(delayed, _sorted) or []
        for name in itertools.takewhile(lambda name: name <= now, waiting):
            with suppress(FileNotFoundError):  # another process was faster
                os.rename(f"{delayed}/{name}", f"{folder}/{name}")
        self._names[queue] = (self._look(folder, _sorted) or [])[::-1]
        return self._names[queue]

    def _set_aside(self, file: str, queue: str, error: ValueError) -> None:
        folder = f"{self._damaged}/{_file(queue)}"
        os.makedirs(folder, exist_ok=True)
        kept = f"{folder}/{os.path.basename(file)}"
        os.replace(file, kept)
        log.error("a message can't be read and is set aside", file=kept, error=str(error))

    def _look(self, path: str, read: Callable[[str], T]) -> T | None:
        """What `read` finds there, or None; an unchanged file or folder is not read again."""
        try:
            changed = os.stat(path).st_mtime_ns
            known = self._seen.get(path)
            if known is not None and known[0] == changed:
                seen: T = known[1]
                return seen
            now = time.time_ns()
            found = read(path)
        except FileNotFoundError:
            return None
        if now - changed > TICK:
            self._seen[path] = changed, found
        return found

    def _listed(self, queue: str) -> list[str]:
        try:
            return os.listdir(self._queues / _file(queue))
        except FileNotFoundError:
            return []

    def _move_in(self, target: str, text: str, *, lasting: bool = False) -> bool:
        temporary = f"{self._temporary}/{uuid4().hex}"
        try:
            with open(temporary, "wb") as file:
                file.write(text.encode())
                if lasting:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, target)
        except FileNotFoundError:
            os.unlink(temporary)
            return False
        except OSError:  # such as a full disk: half a file would take up more of it
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return True

    @staticmethod
    def _load(file: str | Path) -> Payload | None:
        try:
            return dict(json.loads(_read(file)))
        except FileNotFoundError:
            return None


@cache
def _file(name: str) -> str:
    """A queue's or exchange's name as a file name; never one that means a folder."""
    return quote(name, safe="").replace(".", "%2E") or "%"


def _read(file: str | Path) -> bytes:
    with open(file, "rb", buffering=0) as opened:
        return opened.read()


def _sorted(folder: str) -> list[str]:
    return sorted(os.listdir(folder))


@contextmanager
def _lock_if_dead(lock: Path) -> Iterator[bool]:
    """Whether the process that held this lock is gone; then it is ours meanwhile."""
    try:
        opened = lock.open("r+")
    except FileNotFoundError:
        yield False
        return
    with opened:
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
