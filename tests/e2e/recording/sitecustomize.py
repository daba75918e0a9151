"""Records which functions of the product a process calls, when it is on PYTHONPATH.

RECORDED_CALLS names a folder. Its file `phase` names the current phase. Each function that is
called for the first time in a phase becomes a line `phase path function` of a file per process,
called `<process id>.<the program's last argument>`.
"""

import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

FOLDER = Path(os.environ["RECORDED_CALLS"])
ROOT = str(Path(__file__).parents[3]) + os.sep
PRODUCT = (f"{ROOT}allocation{os.sep}", f"{ROOT}workers{os.sep}")

_phase: tuple[int, str] = (0, "")
_seen: set[tuple[str, CodeType]] = set()


def _note(frame: FrameType, event: str, _argument: object) -> None:
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(PRODUCT) or code.co_name == "<module>":
        return
    phase = _current()
    if (phase, code) in _seen:
        return
    _seen.add((phase, code))
    line = f"{phase} {code.co_filename.removeprefix(ROOT)} {code.co_qualname}\n"
    file = FOLDER / f"{os.getpid()}.{sys.orig_argv[-1]}"
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(target, line.encode())
    os.close(target)


def _current() -> str:
    """The phase's name, read again only after the file has changed."""
    global _phase
    changed = os.stat(FOLDER / "phase").st_mtime_ns
    if changed != _phase[0]:
        _phase = (changed, (FOLDER / "phase").read_text())
    return _phase[1]


sys.setprofile(_note)
threading.setprofile(_note)
