"""Blocking work away from the event loop, in threads that nobody has to wait for.

`asyncio.to_thread` has a handful of threads for the whole process: a few storages or servers that hang would take all
of them, and the end of the program waits for every one. Here each call has a thread of its own, which a hang wastes
alone and the end of the program ignores.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")

_left_behind: dict[str, Thread] = {}


async def in_thread(work: Callable[[], T], *, seconds: float, key: str | None = None) -> T:
    """Returns what `work` returns or raises what it raises; raises TimeoutError, and leaves it behind, after `seconds`.

    With a `key`, work of the same key that was left behind and still hangs is a TimeoutError at once, so that what
    hangs for ever wastes one thread and not one every time.
    """
    if key is not None and key in _left_behind and _left_behind[key].is_alive():
        raise TimeoutError(f"an earlier call still hangs: {key}")
    call = _Call(work)
    try:
        async with asyncio.timeout(seconds):
            return await call.future
    except TimeoutError:
        if key is not None:
            _left_behind[key] = call.thread
        raise


class _Call(Generic[T]):
    """One call in its thread. A loop that is closed, and a caller that has gone, are told nothing."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self.future: asyncio.Future[T] = self._loop.create_future()
        self.thread = Thread(target=self._run, name="blocking work", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):
            try:
                result = self._context.run(self._work)
            except BaseException as error:  # noqa: BLE001 -- raised again where it is awaited
                self._loop.call_soon_threadsafe(self._fail, error)
            else:
                self._loop.call_soon_threadsafe(self._succeed, result)

    def _succeed(self, result: T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
