"""`trainer.context_parallel=2` through the real command: two processes on the same pairs against one, and others that
go on with them.
"""

import os
import shutil
import signal

import pytest

from apo.modules.preemption import REQUEUE
from tests import ranks
from tests.commands import metrics, wait_for_steps
from tests.test_fsdp import assert_same_run, home, one, overrides  # noqa: F401  (fixtures)

SHARED = ("trainer.context_parallel=2", "batch_size=4")


@pytest.fixture(scope="module")
def stopped(home, overrides):  # noqa: F811
    """Two processes of the same pairs were told to stop within their ten steps."""
    started = ranks.start(2, home / "stopped.log", ranks.train, *overrides("stopped", 2, *SHARED))
    wait_for_steps(started[0], home / "stopped", 3)
    os.kill(started[1].pid, signal.SIGUSR1)
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [REQUEUE, 0] and 3 <= len(metrics(home / "stopped")) < 10
    return home / "stopped"


@pytest.mark.parametrize(
    "processes, settings",
    [
        (2, SHARED),
        (1, ()),
        (4, ("trainer.context_parallel=2", "batch_size=2", "trainer.shard=2")),
    ],
    ids=["as-before", "alone", "two-groups-over-two-copies"],
)
def test_sharing_tokens_changes_nothing_and_neither_does_going_on_in_another_number(
    home,  # noqa: F811
    overrides,  # noqa: F811
    one,  # noqa: F811
    stopped,
    processes,
    settings,
):
    """Offline: a window of five rows in both experts, with checkpointing, chosen and rejected in turn."""
    folder = home / f"on_{processes}"
    shutil.copytree(stopped, folder)
    ranks.together(
        processes,
        home / f"{folder.name}.log",
        ranks.train,
        *overrides(folder.name, processes, "run=stopped", *settings),
    )
    assert_same_run(folder, one)
