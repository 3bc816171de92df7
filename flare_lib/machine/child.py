"""A process that works for this one: it takes one piece of work after another and answers each with its outcome.

It shares no lock with anyone: work comes in through its stdin and answers go out through its stdout, so a `kill -9` at
any moment costs only the piece in hand. It ends by itself when the process it works for is gone. Being an ordinary
program, it can also be started where multiprocessing refuses to, for example within a Dask worker.
"""

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, cast

import psutil

from flare_lib.machine.failures import Done, Failure, attempt, reason_of

_LENGTH = struct.Struct("<Q")
_GRACE_S = 2.0  # to remove what is half-written
_PROGRAM = "from flare_lib.machine.child import serve; serve()"

Outcome = Done | Failure


def pack(work: Callable, item: object) -> bytes:
    """Return a piece of work as it is sent; TypeError for a function that another process could not import."""
    try:
        return pickle.dumps((work, item))
    except (pickle.PicklingError, AttributeError) as error:
        raise TypeError(f"work for other processes must be a module-level function, got {work!r} ({error})") from error


class Child:
    """One such process, seen from here: `send` it work, and `(child, outcome)` arrives in `answers`, None if it died.

    `environment`: variables added to this process's own, such as the number of threads.
    """

    def __init__(self, answers: "queue.SimpleQueue[tuple[Child, Outcome | None]]", environment: Mapping[str, str]):
        places = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with _ctrl_c_held_back():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM],
                env=os.environ | {"PYTHONPATH": places} | dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        self._stdin, self._ended = cast(BinaryIO, self._process.stdin), False
        threading.Thread(target=self._listen, args=(answers,), daemon=True).start()

    def send(self, packed: bytes) -> None:
        """Give it a piece of work (see `pack`); if it is no longer there, `answers` says so."""
        try:
            _write(self._stdin, packed)
        except OSError:  # it died: the listener has noticed as well
            return

    def memory_mib(self) -> float:
        """Return how much memory it holds now, in MiB; 0 if it is gone."""
        try:
            return psutil.Process(self._process.pid).memory_info().rss / 2**20
        except psutil.Error:
            return 0.0

    def end(self) -> None:
        """End it: first by a signal, so that it can remove what is half-written; after 2 s by force."""
        self._ended = True
        self._process.terminate()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        try:
            self._stdin.close()
        except OSError:  # something was left in it
            return

    def _listen(self, answers: "queue.SimpleQueue[tuple[Child, Outcome | None]]") -> None:
        with cast(BinaryIO, self._process.stdout) as stdout:
            while (answer := _read(stdout)) is not None:
                answers.put((self, _unpack(answer)))
        if not self._ended:
            self._process.wait()
            answers.put((self, None))
            self._close()


def serve() -> None:
    """Be that process: work until stdin is closed, then leave at once."""
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what the work prints must not get in among the answers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by an exception, so that nothing half-written is left
    todo: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, todo), daemon=True).start()
    try:
        while True:
            outcome = attempt(_do, todo.get())
            try:
                answer = pickle.dumps(outcome)
            except Exception as error:  # a result that cannot travel, whatever it raises
                answer = pickle.dumps(_unsendable(error))
            _write(answers, answer)
    finally:
        os._exit(1)  # without waiting for threads, which may never end


def _do(packed: bytes) -> object:
    work, item = pickle.loads(packed)
    return work(item)


def _unpack(answer: bytes) -> Outcome:
    try:
        return pickle.loads(answer)
    except Exception as error:  # as in `serve`
        return _unsendable(error)


def _unsendable(error: Exception) -> Failure:
    return Failure(f"its result must be picklable, got: {reason_of(error)}")


def _receive(requests: BinaryIO, todo: "queue.SimpleQueue[bytes]") -> None:
    while (request := _read(requests)) is not None:
        todo.put(request)
    os._exit(0)  # nobody is left to work for


def _write(stream: BinaryIO, content: bytes) -> None:
    rest = memoryview(_LENGTH.pack(len(content)) + content)
    while rest:
        rest = rest[stream.write(rest) :]
    stream.flush()


def _read(stream: BinaryIO) -> bytes | None:
    """Return the next whole message; None at the end, also if it comes in the middle of one."""
    head = _read_exactly(stream, _LENGTH.size)
    return None if head is None else _read_exactly(stream, _LENGTH.unpack(head)[0])


def _read_exactly(stream: BinaryIO, n_bytes: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < n_bytes:
        if not (part := stream.read(n_bytes - len(parts))):
            return None
        parts += part
    return bytes(parts)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Make processes started in the block ignore Ctrl-C, which a terminal sends to all of them: this one ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
