"""The watchdog barks at lag without progress, and at nothing else."""

import asyncio

import pytest

from stream.watchdog import Watchdog, finishes

A, B = ("predictions", 0), ("champion.control", 0)


def test_lag_without_progress_is_found_after_the_patience():
    dog = Watchdog(60)
    dog.assigned({A, B})
    assert dog.stuck({A: 100, B: 5}, 0.0) == []  # what lay there before is not ours to judge
    assert dog.stuck({A: 130, B: 5}, 10.0) == []
    assert dog.stuck({A: 140, B: 5}, 70.0) == []
    assert dog.stuck({A: 140, B: 5}, 71.0) == [A]
    assert dog.lag({A: 140, B: 5}) == {A: 40, B: 0}


def test_progress_however_slow_keeps_it_quiet():
    dog = Watchdog(60)
    dog.assigned({A})
    dog.stuck({A: 0}, 0.0)
    for k in range(20):
        assert dog.stuck({A: 1000}, 50.0 * k + 1) == []
        dog.handled(A, k)


def test_a_new_assignment_begins_anew():
    dog = Watchdog(60)
    dog.assigned({A})
    dog.stuck({A: 0}, 0.0)
    dog.stuck({A: 9}, 1.0)
    dog.assigned({A, B})
    assert dog.stuck({A: 9, B: 3}, 100.0) == []
    assert dog.lag({A: 9, B: 3}) == {A: 0, B: 0}


def test_all_handled_is_no_lag():
    dog = Watchdog(60)
    dog.assigned({A})
    dog.stuck({A: 0}, 0.0)
    dog.handled(A, 8)
    assert dog.lag({A: 9}) == {A: 0}


def test_a_start_that_moves_is_waited_for_and_one_that_stands_still_is_not():
    async def run():
        steps = 0

        async def slow():
            nonlocal steps
            for _ in range(10):
                await asyncio.sleep(0.1)
                steps += 1

        moving = await finishes(asyncio.ensure_future(slow()), lambda: steps, 0.6)
        hung = asyncio.ensure_future(asyncio.Event().wait())
        standing = await finishes(hung, lambda: steps, 0.2)
        hung.cancel()
        return moving, standing

    assert asyncio.run(run()) == (True, False)


def test_a_start_that_fails_is_over():
    async def run():
        async def fails():
            raise OSError("gone")

        task = asyncio.ensure_future(fails())
        assert await finishes(task, lambda: 0, 5)
        task.result()

    with pytest.raises(OSError, match="gone"):
        asyncio.run(run())
