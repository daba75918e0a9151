"""A reader of a page who runs its blocks in a copy of the project.

A comment on the line before a block, unseen on the page, says what is to be done with it:

- `file: NAME`: the reader writes the block into this file;
- `in: FILE before: TEXT`: the reader puts the block there, before the one place with this text;
- `stays: WORDS`: the command keeps running, and the next block comes once it has said these words;
- `soon`: the command is given again until it says what the next block states;
- `said by N`: what the N-th command that stays says after what was stated of it before.

A block of the language `text` or `json` is what the command before it says, see `blocks.ANYTHING`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import cache_from_source
from pathlib import Path

from tests.docs.blocks import Block, blocks, says
from tests.servers.ports import free_ports
from tests.servers.processes import ROOT, Process, clean_environment
from tests.waiting import eventually

_SHELLS = ("sh", "")


class Reader:
    """Reads pages, with ports of their own in place of those that stand there."""

    def __init__(self, folder: Path, processes: Callable[..., Process]) -> None:
        """`folder` is made, a copy of what git knows here, with this environment as its .venv."""
        self.folder = folder
        self._processes = processes
        self.staying: list[Process] = []
        self._heard: dict[int, int] = {}
        _clone(folder)
        api, flower = free_ports(2)
        self.replace = {
            "127.0.0.1:5005": f"127.0.0.1:{api}",
            "127.0.0.1:5555": f"127.0.0.1:{flower}",
        }
        self.environment = {
            "ALLOCATION_PORT": str(api),
            "ALLOCATION_FLOWER_PORT": str(flower),
            "ALLOCATION_API_WORKERS": "1",
            # The copy's own modules, as if it were what is installed.
            "PYTHONPATH": str(folder),
        }

    def read(self, page: str) -> None:
        """Do everything that the page says."""
        self.do(blocks(ROOT / page), page)

    def do(self, given: Sequence[Block], page: str) -> None:
        """Do these blocks in order; AssertionError names the page's line that does not hold."""
        for block, after in zip(given, [*given[1:], None], strict=True):
            where = f"{page}:{block.line}"
            kind, _, what = block.note.partition(": ")
            result = after if after and after.is_result and not after.note else None
            if kind.startswith("said by "):
                self._heard_from(int(kind.removeprefix("said by ")), block, where)
            elif block.is_result and not kind:
                pass  # it was compared with what the command before it says
            elif kind == "file":
                (self.folder / what).write_text(self._here(block.text))
            elif kind == "in":
                self._insert(block, what, where)
            elif kind == "stays":
                self.stay(block.text, what)
            elif kind == "soon":
                assert result, f"{where}: nothing is stated that could come soon"
                self._soon(block, result, where)
            else:
                assert block.language in _SHELLS, f"{where}: no note says what to do with this"
                self._run(block, result, where)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """The command, ended, in a shell that stops at what fails."""
        return subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", self._here(command)],
            cwd=self.folder,
            env=clean_environment() | self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def _insert(self, block: Block, what: str, where: str) -> None:
        name, _, place = what.partition(" before: ")
        path, before = self.folder / name, place.replace("\\n", "\n")
        text = path.read_text()
        assert text.count(before) == 1, f"{where}: {name} has {text.count(before)} such places"
        # Blank lines as the style asks: two after what stands alone, one after a method.
        blank = 2 if block.language == "python" else int("def " in block.text)
        path.write_text(text.replace(before, block.text + "\n" * blank + before))

    def stay(self, command: str, words: str) -> None:
        """Start a command that keeps running, and wait until it has said these words."""
        name = f"staying-{len(self.staying) + 1}"
        given = ["bash", "-euc", f"exec {self._here(command).strip()}"]
        process = self._processes(given, name=name, env=self.environment, cwd=self.folder)
        self.staying.append(process)
        process.wait_for_log(words, within=40)

    def _run(self, block: Block, result: Block | None, where: str) -> None:
        done = self.run(block.text)
        said = done.stdout[-3000:] + done.stderr
        assert done.returncode == 0, f"{where} ended with {done.returncode}: {said}"
        if result:
            stated = self._stated(result)
            assert says(stated, done.stdout), f"{where} said\n{done.stdout}\nnot\n{stated.text}"

    def _soon(self, block: Block, result: Block, where: str) -> None:
        def said() -> str | None:
            done = self.run(block.text)
            last[0] = done.stdout + done.stderr
            return done.stdout if says(self._stated(result), done.stdout) else None

        last = [""]
        try:
            eventually(said, within=20, what=where)
        except AssertionError as failure:
            failure.add_note(f"{where} said\n{last[0]}\nnot\n{result.text}")
            raise

    def _heard_from(self, number: int, block: Block, where: str) -> None:
        process = self.staying[number - 1]

        def new() -> list[str]:
            return process.logs().splitlines()[self._heard.get(number, 0) :]

        wanted = len(block.text.splitlines())
        eventually(lambda: len(new()) >= wanted, within=20, what=f"{where} from {process.name}")
        heard = "\n".join(new()[:wanted])
        assert says(block, heard), f"{where}: {process.name} said\n{heard}\nnot\n{block.text}"
        self._heard[number] = self._heard.get(number, 0) + wanted

    def _stated(self, result: Block) -> Block:
        return Block(result.line, result.language, self._here(result.text))

    def _here(self, text: str) -> str:
        for there, here in self.replace.items():
            text = text.replace(there, here)
        return text


def _clone(folder: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():  # what was deleted and not committed yet is listed too
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
            _copy_compiled(ROOT / name, folder / name)
    environment = folder / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "include", "pyvenv.cfg"):
        os.symlink(Path(sys.prefix) / name, environment / name)
    for made in ("run", "dev"):
        (environment / made).touch()  # newer than what it is made from: make installs nothing


def _copy_compiled(source: Path, copy: Path) -> None:
    """Copy what Python compiled from it: else the copy's first processes, all at once, compile it.

    Python takes it only as long as the copy has the time and the size of the source.
    """
    if source.suffix == ".py":
        compiled = Path(cache_from_source(source))
        if compiled.exists():
            target = Path(cache_from_source(copy))
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(compiled, target)
