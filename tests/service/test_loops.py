"""Loops that come back by themselves."""

from __future__ import annotations

import asyncio
import contextlib

from dataguardian.domain.clock import SystemClock
from dataguardian.workers.loops import Loop, run_loop


def test_a_loop_ends_though_its_work_swallowed_the_cancel() -> None:
    """A library that loses a cancel on its way up must not make a shutdown wait for ever."""
    swallowed: list[bool] = []

    async def story() -> None:
        begun = asyncio.Event()

        async def swallow() -> None:
            begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            swallowed.append(True)

        running = asyncio.create_task(run_loop(Loop("deaf", 60, swallow), SystemClock()))
        await begun.wait()
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=5)
        assert done == {running}

    asyncio.run(story())
    assert swallowed == [True]
