"""Figures and their runs: valid, told apart, and within the hours that are promised."""

import json

import pytest

from experiments.reproduce import protocol, ptb_word, registry, status
from experiments.training import fields


@pytest.mark.slow
@pytest.mark.parametrize("scale", protocol.SCALES)
@pytest.mark.parametrize("figure", registry.FIGURES)
def test_every_run_has_a_valid_config_and_a_name_of_its_own(figure, scale):
    runs = registry.FIGURES[figure].runs(scale)
    for run in runs:
        fields.check(protocol.build_config(run))
    assert len({run.name for run in runs}) == len(runs)
    configs = {json.dumps(protocol.config_dict(run)) for run in runs}
    # An LSTM of fewer cells is one of as many at the size of the smoke test.
    assert len(configs) == len(runs) - (figure == "ptb_word" and scale == "smoke")
    models = {protocol.config_dict(run)["model"]["name"] for run in runs}
    feedforward = figure == "F4"
    assert models == set(protocol.FEEDFORWARD if feedforward else protocol.RECURRENT)


def test_cpu_has_the_seeds_and_fits_eight_hours(tmp_path):
    seeds, seconds = {}, 0.0
    for figure in registry.FIGURES:
        found = status.of_figure(registry.FIGURES[figure], "cpu", tmp_path)
        seconds += sum(each.seconds for each in found)
        configs = [protocol.config_dict(each.run) for each in found]
        seeds[figure] = len({config["seed"] for config in configs})
    assert [seeds[figure] for figure in registry.FIGURES] == [3, 3, 2, 2, 1, 1]
    assert seconds <= 8 * 3600


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
    with pytest.raises(ValueError, match="scale must be one of smoke, .*'huge'"):
        registry.FIGURES["F1"].runs("huge")
