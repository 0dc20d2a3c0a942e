import torch

from apo.evaluators.win_rate import WinRate
from apo.intervals import wilson


def test_higher_scores_win_and_equal_scores_tie():
    metric = WinRate()
    metric.update(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 3.0]))
    metric.update(torch.tensor([5.0]), torch.tensor([4.0]))
    assert metric.compute() == {"win": 2, "tie": 1, "loss": 1, "win_rate": wilson(2, 3)}


def test_swapping_the_runs_swaps_wins_and_losses():
    a, b = (torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    ours, theirs = WinRate(), WinRate()
    ours.update(a, b)
    theirs.update(b, a)
    ours, theirs = ours.compute(), theirs.compute()
    assert (ours["win"], ours["tie"], ours["loss"]) == (theirs["loss"], theirs["tie"], theirs["win"])
    assert ours["win"] + ours["tie"] + ours["loss"] == 50
