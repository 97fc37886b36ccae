"""Many calls at a time, but not too many: workers that share one list of work."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mis_lib.clients.protocol import Unavailable

T = TypeVar("T")


class Streak:
    """Counts failures in a row; beyond ``most`` the server is taken to be down and nothing more is asked of it."""

    def __init__(self, most: int) -> None:
        self.most, self.length = most, 0

    def check(self) -> None:
        """Refuse to go on where the streak is too long.

        Raises:
            Unavailable: it is.
        """
        if self.length >= self.most:
            raise Unavailable(f"not tried: the last {self.length} calls failed")


async def work_through(items: Sequence[T], work: Callable[[T], Awaitable[None]], concurrency: int) -> None:
    """Do ``work`` on every item, ``concurrency`` at a time, begun in their order.

    Raises:
        Exception: the first that any of them raised; what was under way is cancelled.
    """
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:  # shared by all workers: each item goes to one of them
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
