import numpy as np
import pandas as pd
import pytest

from apo.reports.bench import parameters_stored, summarise
from tests.builds import load


def times(bare, whole) -> pd.DataFrame:
    """Steps by the clock; in processor time each passes in 1 s and each step in 1.02 s."""
    return pd.DataFrame({"bare": bare, "whole": whole, "bare_cpu": 1.0, "whole_cpu": 1.02})


def test_the_ratio_of_steps_to_bare_passes_is_taken_pairwise():
    """The machine slows down by a factor of 3 half-way: no ratio moves, and the spread of the times shows it."""
    bare = np.where(np.arange(40) < 20, 1.0, 3.0)
    report = summarise([times(bare, 1.05 * bare)] * 2)
    assert report["ratio"] == pytest.approx({"value": 1.05, "low": 1.05, "high": 1.05})
    assert report["ratio_of_each_repeat"] == pytest.approx([1.05, 1.05])
    assert report["ratio_of_processor_time"]["value"] == pytest.approx(1.02)
    assert report["bare_seconds"]["low"] == 1.0 and report["bare_seconds"]["high"] == 3.0


def test_rare_slow_steps_show_in_the_totals_only():
    report = summarise([times(np.ones(40), np.where(np.arange(40) % 10 == 0, 2.0, 1.0))])
    assert report["ratio"]["value"] == 1.0 and report["ratio_of_totals"] == pytest.approx(1.1)


def test_stored_parameters_are_the_pipelines(wan22_folder):
    pipeline = load(wan22_folder)
    modules = (pipeline.transformer, pipeline.transformer_2, pipeline.vae, pipeline.text_encoder)
    assert parameters_stored(wan22_folder) == sum(p.numel() for module in modules for p in module.parameters())
