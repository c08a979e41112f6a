"""Fresh processes without the seconds that each would spend on importing torch.

A process that has imported torch, and nothing of this repository, is forked off before the first test; `run` and
`start` have it fork once more. What runs there finds an interpreter as `python` gives it: modules of its own, its own
folder, environment, path and streams. Not for what tests how an interpreter starts, or which modules it loads.
"""

import atexit
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: packages of this repository, which a fresh process has not imported
OURS = ("stillpoint", "core", "pipelines", "tests", "benchmarks", "conftest")
#: imported once, by the first process that is asked for, if not before: they take longer than torch
HEAVY = ("torchmetrics", "yaml", "pydantic", "rich", "safetensors.torch", "sklearn.datasets")

_server: socket.socket | None = None


def load() -> None:
    """Imports what takes longer than torch."""
    for name in HEAVY:
        importlib.import_module(name)


def serve() -> None:
    """Forks the process that forks the others; once, while nothing but torch is there."""
    global _server
    if _server is not None or any(name.split(".")[0] == "stillpoint" for name in sys.modules):
        return
    _server, theirs = socket.socketpair()
    number = os.fork()
    if number:
        theirs.close()
        atexit.register(_end, number)
        return
    try:
        _server.close()
        _serve(theirs)
    finally:
        os._exit(0)


def _end(number: int) -> None:
    assert _server is not None
    _server.close()
    with suppress(ChildProcessError):
        os.waitpid(number, 0)


def _serve(asked: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._clear()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    # pytest's, which rewrites what it imports
    sys.meta_path[:] = [found for found in sys.meta_path if not type(found).__module__.startswith("_pytest")]
    warnings.resetwarnings()
    loaded = False
    while True:
        message, streams, *_ = socket.recv_fds(asked, 1 << 20, 2)
        if not message:
            return
        what = json.loads(message)
        if "wait" in what:
            asked.send(json.dumps(os.waitstatus_to_exitcode(os.waitpid(what["wait"], 0)[1])).encode())
            continue
        if not loaded:
            load()
            loaded = True
        # by its first use, for it takes two seconds
        if what["words"][:2] == ["-m", "snakemake"]:
            importlib.import_module("snakemake.cli")
        number = os.fork()
        if number == 0:
            asked.close()
            _become(what, streams)
        for stream in streams:
            os.close(stream)
        asked.send(json.dumps(number).encode())


def _become(what: dict[str, Any], streams: list[int]) -> None:
    """This process as `python WORDS` in a folder and environment; never returns."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(what["timeout"])
        for stream, number in zip(streams, (1, 2), strict=True):
            os.dup2(stream, number)
            os.close(stream)
        for name, number in (("stdout", 1), ("stderr", 2)):
            text = io.TextIOWrapper(io.FileIO(number, "w", closefd=False), write_through=True)
            setattr(sys, name, text)
            setattr(sys, f"__{name}__", text)
        os.chdir(what["cwd"])
        os.environ.clear()
        os.environ.update(what["env"])
        torch = sys.modules["torch"]
        if "OMP_NUM_THREADS" in os.environ:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        base = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
        given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        kind, *words = what["words"]
        first = {"-c": "", "-m": str(Path.cwd())}.get(kind, str(Path(kind).resolve().parent))
        sys.path[:] = [first, *given, *base]
        sys.path_importer_cache.clear()
        importlib.invalidate_caches()
        sys.argv = ["-c", *words[1:]] if kind == "-c" else words if kind == "-m" else [kind, *words]
        if kind == "-c":
            own: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
            exec(compile(words[0], "<string>", "exec"), own)
        elif kind == "-m":
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(kind, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        os._exit(code)


class Process:
    """A fresh process that is at work; its standard streams are files."""

    def __init__(self, words: list[str], cwd: Path, env: dict[str, str], timeout: int) -> None:
        assert _server is not None, "tests/conftest.py has it started"
        self.words, self.files = words, [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        what = {"words": words, "cwd": str(cwd), "env": env, "timeout": timeout}
        socket.send_fds(_server, [json.dumps(what).encode()], [file.fileno() for file in self.files])
        self.number = json.loads(_server.recv(100))

    def wait(self) -> subprocess.CompletedProcess[str]:
        assert _server is not None
        _server.send(json.dumps({"wait": self.number}).encode())
        code = json.loads(_server.recv(100))
        said = []
        for file in self.files:
            file.seek(0)
            said.append(file.read())
            file.close()
        return subprocess.CompletedProcess(self.words, code, *said)


def start(words: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: int = 0) -> Process:
    """``python WORDS``: -c PROGRAM, -m MODULE or a file. It is ended after `timeout` seconds; 0: never."""
    return Process([str(word) for word in words], cwd, dict(os.environ) if env is None else env, timeout)


def run(
    words: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: int = 0
) -> subprocess.CompletedProcess[str]:
    """`start`, waited for."""
    return start(words, cwd=cwd, env=env, timeout=timeout).wait()
