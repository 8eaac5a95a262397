"""Figures and their runs: valid, told apart, and within the hours that are promised."""

import json

import pytest

from configs import common
from experiments.reproduce import grids, protocol, registry, status
from experiments.reproduce.tables import ptb_word, trials
from experiments.runs import identity, records
from experiments.training import fields


@pytest.mark.slow
@pytest.mark.parametrize("scale", protocol.SCALES)
@pytest.mark.parametrize("figure", registry.FIGURES | trials.FIGURES)
def test_every_run_has_a_valid_config_and_a_name_of_its_own(figure, scale):
    runs = registry.find(figure).runs(scale)
    for run in runs:
        fields.check(protocol.build_config(run))
    assert len({run.name for run in runs}) == len(runs)
    configs = {json.dumps(protocol.config_dict(run)) for run in runs}
    # An LSTM of fewer cells is one of as many at the size of the smoke test.
    same = [run for run in runs if "/lstm_equal_" in run.name and scale == "smoke"]
    assert len(configs) == len(runs) - len(same)
    models = {protocol.config_dict(run)["model"]["name"] for run in runs}
    feedforward = figure in ("F4", "deep_mlp_grid")
    expected = set(protocol.FEEDFORWARD if feedforward else protocol.RECURRENT)
    expected |= set(ptb_word.UNTRIED if figure == "ptb_word" else ())
    if figure == "F3_leak":
        expected -= {"lstm"}  # it has none
    one = figure == "F5" or (figure, scale) == ("F3_leak", "smoke")
    assert models == ({"spectral"} if one else expected)


@pytest.mark.parametrize("figure", ["F1", "F2", "F3", "F4"])
def test_the_paper_s_protocol_is_one_setting_for_all_models(figure):
    runs = registry.FIGURES[figure].runs("cpu")
    paper = [run for run in runs if run.protocol == "paper"]
    tuned = [run for run in runs if run.protocol == "tuned"]
    assert len(paper) + len(tuned) == len(runs) and paper and tuned
    configs = [protocol.config_dict(run) for run in paper]
    train = {json.dumps(config["train"]["rates"]) for config in configs}
    assert train == {json.dumps(dict.fromkeys(common.get_config().train.rates))}
    for config in configs:
        assert config["train"]["learning_rate"] == 1e-3
        assert config["train"]["schedule"] == "exponential"
        assert config["train"]["decay_rate"] == 0.99
        assert config["model"]["reflectors"] == 16
        spectral = config["model"]["name"] in ("spectral", "spectral_mlp")
        assert config["model"]["init"] == "random" or not spectral
        assert config["model"]["radius"] == 0.01 or not spectral
    # The same seeds, sizes and iterations as the tuned ones.
    kept = ["seed", "task", "train.steps", "train.epochs", "model.name", "model.layers"]
    if figure in ("F1", "F2"):  # but theirs has more, with one seed of what is slow
        kept.remove("train.steps")
        steps = {"F1": {10_000}, "F2": {4000, 2000}}
        assert {run.changes["train.steps"] for run in paper} == steps[figure]
        short = {"F1": 30, "F2": 100}[figure]
        tuned = [run for run in tuned if not _is_slow(run, short)]
        assert not any(_is_slow(run, short) for run in paper)
    found = [
        {tuple(_values(protocol.config_dict(run), kept)) for run in each}
        for each in (paper, tuned)
    ]
    assert found[0] == found[1]


def _is_slow(run, short):
    another = run.changes["model.name"] == "lstm" and run.changes["seed"] > 0
    return another and run.changes["task.length"] > short


def _values(config, names):
    flat = identity.flatten(config)
    return [json.dumps(config["task"]) if n == "task" else flat[n] for n in names]


def test_every_model_has_as_many_trials():
    for grid in grids.GRIDS.values():
        assert len({len(settings) for settings in grid.settings.values()}) == 1
    for name, chosen in grids.CHOSEN.items():
        assert chosen.keys() == grids.GRIDS[name].settings.keys()


@pytest.mark.parametrize("name", grids.CHOSEN)
def test_what_was_chosen_is_the_best_that_is_recorded(name):
    grid, metric = grids.GRIDS[name], grids.metric(name)
    found = {
        run.name: grids.value(status.find(run, records.RESULTS)[0], metric)
        for run in grids.runs(name, "cpu")
    }
    for model, settings in grid.settings.items():
        values = {s: found[f"{name}/{model}_{s}"] for s in settings}
        known = {s: value for s, value in values.items() if value is not None}
        best = metric.best(known.values())
        assert known[grids.CHOSEN[name][model]] == best


def test_cpu_has_the_seeds_and_fits_its_hours(tmp_path):
    seeds, seconds = {}, {}
    for figure in registry.FIGURES:
        found = status.of_figure(registry.FIGURES[figure], "cpu", tmp_path)
        seconds |= {each.run.name: each.seconds for each in found}
        configs = [protocol.config_dict(each.run) for each in found]
        seeds[figure] = len({config["seed"] for config in configs})
    assert [seeds[figure] for figure in registry.FIGURES] == [3, 3, 2, 2, 2, 1, 3, 2]
    assert sum(seconds.values()) <= 17 * 3600


def test_one_seed_of_the_paper_s_protocol_of_two_figures_fits_four_hours_and_a_half():
    found = [
        each
        for figure in ("F1", "F2")
        for each in status.of_figure(registry.FIGURES[figure], "cpu", records.RESULTS)
        if each.run.protocol == "paper" and each.run.changes["seed"] == 0
    ]
    assert sum(each.seconds for each in found) <= 4.5 * 3600


def test_equal_lstm_has_the_parameters_of_the_spectral_model():
    def lstm(n):
        return 10_000 * n + 10_000 + 8 * n**2 + 4 * n

    n = 200
    spectral = 10_000 * n + 10_000 + n * (n + 1) + n + n * n + n
    n = ptb_word.EQUAL_LSTM
    assert min((n - 1, n, n + 1), key=lambda m: abs(lstm(m) - spectral)) == n


def test_a_change_of_an_unknown_field_is_an_error():
    with pytest.raises(AttributeError, match="lenght"):
        protocol.build_config(protocol.Run("x", "addition", {"task.lenght": 3}))
    with pytest.raises(ValueError, match="config of x must be a file in .*'none'"):
        protocol.build_config(protocol.Run("x", "none", {}))
    with pytest.raises(ValueError, match="config of x must be a file, .*none.py"):
        protocol.build_config(protocol.Run("x", "/none.py", {}))
    with pytest.raises(ValueError, match="FIGURE must be one of F1, .*'F9'"):
        registry.find("F9")
    with pytest.raises(ValueError, match="FIGURE must be given, got none"):
        registry.named([])
    assert registry.named(["F2", "all"])[1:] == [
        figure for name, figure in registry.FIGURES.items() if name != "F2"
    ]
    assert registry.named(["trials"]) == list(trials.FIGURES.values())
    with pytest.raises(ValueError, match="scale must be one of smoke, .*'huge'"):
        registry.FIGURES["F1"].runs("huge")
