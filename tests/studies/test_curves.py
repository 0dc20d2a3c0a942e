import matplotlib
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_series_equal

from apo.studies.curves import PANELS, Run, compare, count_spikes, find, load, per_rows, smooth, spike_table
from tests.studies import runs

matplotlib.use("Agg")


def series(values) -> pd.Series:
    return pd.Series(np.asarray(values, float))


def test_a_constant_and_a_slope_have_no_spikes():
    for values in (np.ones(100), np.linspace(1, 0, 100)):
        spikes = count_spikes(series(values))
        assert spikes.count == 0 and spikes.per_100 == 0
    assert count_spikes(series(np.ones(100))).local_sd == 0


def test_planted_spikes_are_counted_upwards_and_downwards():
    values = series(0.69 + 0.01 * np.sin(np.arange(200)))
    values[[20, 90, 91, 150]] += [0.5, 0.5, -0.5, 0.5]
    spikes = count_spikes(values)
    assert (spikes.count, spikes.per_100) == (4, 2.0)


def test_normal_noise_has_the_stated_spikes_and_its_sd():
    spikes = count_spikes(series(np.random.default_rng(0).normal(0, 0.3, 20_000)))
    assert 0.5 < spikes.per_100 < 0.7 and 0.25 < spikes.local_sd < 0.33


def test_spikes_do_not_depend_on_scale_and_level():
    values = series(np.random.default_rng(1).standard_t(2, 500))
    assert count_spikes(values).count == count_spikes(7 * values + 3).count > 0


def test_empty_values_are_left_out_of_the_count():
    values = series(np.random.default_rng(1).standard_t(2, 100))
    with_gaps = values.set_axis(np.arange(100) * 2).reindex(np.arange(200))
    assert count_spikes(with_gaps) == count_spikes(values)


def test_smoothing_keeps_a_constant_and_starts_without_bias():
    assert_series_equal(smooth(series(np.full(20, 3.0))), series(np.full(20, 3.0)))
    assert smooth(series([2.0, 4.0]), decay=0.5).tolist() == pytest.approx([2.0, (0.5 * 2 + 4) / 1.5])
    assert smooth(series([2.0, np.nan, 4.0]), decay=0.5).iloc[2] == pytest.approx((0.25 * 2 + 4) / 1.25)


def test_a_run_is_read_with_its_rows_per_step(tmp_path):
    run = load(runs.training(tmp_path / "table1" / "ablation_apo-seed_0", steps=30, rows=5))
    assert (run.name, run.rows_per_step, len(run.metrics)) == ("table1/ablation_apo-seed_0", 5, 30)
    assert run.x("steps")[-1] == 30 and run.x("rows")[-1] == 150


def test_no_metrics_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match="outputs/<run>/<stage>"):
        load(tmp_path)


def test_averaging_one_row_steps_over_five_equals_the_window():
    values = np.random.default_rng(0).normal(size=50)
    single = Run("single", pd.DataFrame({"train/loss": values}), 1)
    assert per_rows(single, 5).metrics["train/loss"].tolist() == pytest.approx(values.reshape(10, 5).mean(1))
    window = Run("window", pd.DataFrame({"train/loss": values}), 5)
    assert_series_equal(per_rows(window, 5).metrics["train/loss"], window.metrics["train/loss"])


def test_the_spike_table_compares_equal_numbers_of_rows(tmp_path):
    table = spike_table([load(runs.training(tmp_path / "a", 250, 1)), load(runs.training(tmp_path / "b", 50, 5))])
    logged, equal = table["local sd"], table["local sd, 5-row means"]
    assert logged.iloc[0] > 1.5 * logged.iloc[1]  # a mean of five is quieter, whatever the training did
    assert equal.iloc[0] == pytest.approx(equal.iloc[1], rel=0.5)


def test_patterns_find_runs_and_fall_back_to_what_is_there(tmp_path, capsys):
    folder = runs.training(tmp_path / "outputs" / "main" / "offline")
    assert find(["outputs/*/offline"], tmp_path) == find([str(folder)], tmp_path) == [folder]
    assert capsys.readouterr().out == ""
    assert find(["outputs/table1/*"], tmp_path) == [folder]
    assert "outputs/main/offline" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="train.py"):
        find(["outputs/*"], tmp_path / "elsewhere")


@pytest.mark.parametrize("axis, ends", [("steps", [100, 20]), ("rows", [100, 100])])
def test_the_figure_has_every_panel_with_every_run(tmp_path, axis, ends):
    both = [load(runs.training(tmp_path / "a", 100, 1)), load(runs.training(tmp_path / "b", 20, 5))]
    figure = compare(both, axis)
    assert [ax.get_title() for ax in figure.axes] == list(PANELS)
    for ax, keys in zip(figure.axes, PANELS.values()):
        assert len(ax.lines) == 2 * 2 * len(keys)
    loss = figure.axes[0]
    assert [line.get_xdata()[-1] for line in loss.lines[::2]] == ends


def test_a_run_of_one_regime_leaves_the_other_panel_to_the_others(tmp_path):
    run = load(runs.training(tmp_path / "high_only"))
    run.metrics = run.metrics.drop(columns="train/loss_low")
    assert [len(ax.lines) for ax in compare([run]).axes] == [2, 2, 0, 4, 2, 2]
