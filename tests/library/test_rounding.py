"""The bound of classifiers of few bits, and the search for the bits."""

import itertools
import math

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import svdrnn
from svdrnn import certificate
from svdrnn.certificate import generalization, rounding


def test_a_grid_holds_the_nearest_of_its_values():
    grid = rounding.Grid(3, -2)  # -0.75, -0.5, ... 0.75
    places = np.arange(-3, 4) / 4
    generator = np.random.default_rng(0)
    values = generator.uniform(-1, 1, (5, 7)).astype(np.float32)
    found = grid.rounded(values)
    assert found.dtype == values.dtype
    nearest = np.min(np.abs(values[..., None] - places), axis=-1)
    np.testing.assert_allclose(np.abs(values - found), nearest, rtol=1e-6)
    assert set(found.ravel()) == set(places.astype(np.float32))
    np.testing.assert_array_equal(rounding.Grid(1, 5).rounded(values), 0 * values)


@pytest.mark.parametrize("bits", [2, 3, 8, 24])
@pytest.mark.parametrize("scale", [1e-6, 0.3, 1.0, 8.0, 1e5])
def test_the_grid_that_fits_reaches_all_values_and_is_the_finest(bits, scale):
    values = scale * np.random.default_rng(0).uniform(-1, 1, 50)
    grid = rounding.fitting(values, bits)
    step = 2.0**grid.exponent
    assert grid.largest * step >= np.max(np.abs(values))
    assert grid.largest * step / 2 < np.max(np.abs(values))
    assert np.max(np.abs(grid.rounded(values) - values)) <= step / 2


def test_the_count_is_that_of_all_classifiers():
    grids = {"a": rounding.Grid(2, 0), "b": rounding.Grid(3, -1)}
    sizes = {"a": 3, "b": 2}
    each = [np.arange(-1, 2)] * 3 + [np.arange(-3, 4) / 2] * 2
    count = len(list(itertools.product(*each)))
    found = rounding.bound(grids, sizes, 0.1, examples=200, delta=0.05, models=4)
    assert math.exp(found.log_count) == pytest.approx(count)
    choices = [2, 0, 3, -1]
    paid = sum(math.log(2.3 * (abs(k) + 1) ** 2) for k in choices)
    assert found.log_choices == pytest.approx(paid + math.log(4 / 0.05))
    a = (math.log(count) + paid + math.log(4 / 0.05)) / 200
    assert found.bound == pytest.approx(generalization.kl_inverse(0.1, a))
    assert found.bits == 3 * 2 + 2 * 3


def test_what_is_paid_for_bits_and_exponents_is_no_more_than_delta():
    def paid(choices):
        return sum(math.exp(-generalization.log_choices((k,))) for k in choices)

    most = rounding.MOST_EXPONENT
    assert paid(range(1, rounding.MOST_BITS + 1)) * paid(range(-most, most + 1)) <= 1


def test_a_bound_is_more_with_bits_models_and_confidence_and_less_with_examples():
    sizes = {"a": 30}

    def value(bits=4, examples=1000, **others):
        grids = {"a": rounding.Grid(bits, 0)}
        return rounding.bound(grids, sizes, 0.1, examples=examples, **others).bound

    base = value()
    assert 0.1 < base < 1
    assert value(bits=5) > base
    assert value(models=100) > base
    assert value(delta=1e-3) > base
    assert value(examples=2000) < base


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"training_error": 1.1}, "training_error"),
        ({"examples": 0}, "examples"),
        ({"delta": 0.0}, "delta"),
        ({"models": 0}, "models"),
        ({"sizes": {"b": 3}}, "grids must have the names"),
        ({"sizes": {"a": -1}}, "sizes"),
    ],
)
def test_numbers_out_of_range_are_named(change, named):
    given = {"grids": {"a": rounding.Grid(2, 0)}, "sizes": {"a": 3}}
    given |= {"training_error": 0.1, "examples": 10} | change
    with pytest.raises(ValueError, match=named):
        rounding.bound(**given)


@pytest.mark.parametrize(
    ("bits", "exponent", "named"),
    [(0, 0, "bits"), (25, 0, "bits"), (2, 127, "exponent"), (2, -127, "exponent")],
)
def test_a_grid_out_of_range_is_named(bits, exponent, named):
    with pytest.raises(ValueError, match=named):
        rounding.Grid(bits, exponent)
    with pytest.raises(ValueError, match="values must be finite"):
        rounding.fitting(np.array([1.0, np.nan]), 3)


def test_the_widest_grid_is_taken_where_none_reaches_the_values():
    values = np.float32([3e38, 1.0])
    grid = rounding.fitting(values, 2)
    assert grid == rounding.Grid(2, rounding.MOST_EXPONENT)
    np.testing.assert_array_equal(grid.rounded(values), np.float32([2.0**126, 0]))


def test_the_search_takes_the_bits_that_do_not_matter():
    """One tensor decides by its sign, one by its size, and one not at all."""
    parameters = {
        "sign": np.array([1.3, -2.1]),
        "size": np.array([0.59]),
        "nothing": np.ones(50),
    }

    def error(values):
        wrong = np.mean(np.sign(values["sign"]) != np.sign(parameters["sign"]))
        return 0.5 * wrong + min(0.5, abs(values["size"][0] - 0.59))

    sizes = {name: values.size for name, values in parameters.items()}
    grids = rounding.search(parameters, sizes, error, examples=1000)
    assert grids["nothing"].bits == 1
    assert grids["sign"].bits <= 3
    assert grids["size"].bits >= 4
    rounded = {name: grid.rounded(parameters[name]) for name, grid in grids.items()}
    assert error(rounded) < 0.1


def small(count=600, learnable=True):
    """A classifier of sums that is fitted by its readout alone, and its data."""
    generator = np.random.default_rng(0)
    inputs = generator.uniform(0, 1, (count, 5, 2)).astype(np.float32)
    labels = (inputs.sum((1, 2)) > 5).astype(np.int32)
    if not learnable:
        labels = generator.integers(0, 2, count).astype(np.int32)
    rngs = nnx.Rngs(0)
    model = Sums(rngs)
    states = np.asarray(model.rnn(jnp.asarray(inputs), last_only=True))
    wide = np.concatenate([states, np.ones((count, 1))], axis=1)
    solution = np.linalg.lstsq(wide, 2.0 * labels - 1, rcond=None)[0]
    model.readout.kernel[...] = np.stack([-solution[:-1], solution[:-1]], 1)
    model.readout.bias[...] = np.array([-solution[-1], solution[-1]])
    return model, inputs, labels


class Sums(nnx.Module):
    def __init__(self, rngs):
        options = {"reflectors": 2, "radius": 0.1, "init": "identity", "leak": 0.5}
        self.rnn = svdrnn.SpectralRNN(2, 6, rngs=rngs, **options)
        self.readout = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, inputs):
        return self.readout(self.rnn(inputs, last_only=True))


def test_a_model_is_rounded_and_bounded(monkeypatch):
    # The search sees some of the examples, the bound all of them.
    monkeypatch.setattr(certificate.certification, "_SEARCHED", 100)
    model, inputs, labels = small()
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    found, rounded = certificate.certify_rounded(model, inputs, labels, models=3)
    assert found.models == 3
    assert found.examples == len(inputs)
    predicted = np.argmax(rounded(jnp.asarray(inputs)), -1)
    assert found.training_error == pytest.approx(np.mean(predicted != labels))
    assert found.training_error < 0.15
    assert found.training_error < found.bound < 0.7
    # Two rows of six have one entry below the trapezoid.
    assert found.sizes["rnn.cell.weight.u_vectors"] == 11
    assert sum(found.sizes.values()) == 2 * 11 + 6 + 12 + 6 + 12 + 2
    state = nnx.to_flat_state(nnx.state(rounded, nnx.Param))
    for path, leaf in state:
        grid = found.grids[".".join(map(str, path))]
        values = np.asarray(leaf[...])
        np.testing.assert_array_equal(grid.rounded(values), values)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, after, before)


class Named(nnx.Module):
    """Parameters of names that mean something elsewhere."""

    def __init__(self, rngs):
        self.value = nnx.Linear(4, 4, rngs=rngs)
        self.kernel = nnx.Param(2 * jnp.eye(4))
        self.word_vectors = nnx.Param(jnp.ones((4, 4)))
        self.readout = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, inputs):
        found = self.value(inputs) @ self.kernel[...] @ self.word_vectors[...]
        return self.readout(found)


def test_every_parameter_counts_whatever_its_name():
    model = Named(nnx.Rngs(0))
    inputs = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    labels = np.asarray(np.argmax(model(jnp.asarray(inputs)), -1), np.int32)
    found, rounded = certificate.certify_rounded(model, inputs, labels)
    assert found.sizes["word_vectors"] == 16
    assert sum(found.sizes.values()) == 16 + 4 + 16 + 16 + 8 + 2
    assert found.sizes["value.kernel"] == found.sizes["kernel"] == 16
    kernels = rounded.value.kernel[...], rounded.kernel[...]
    assert not np.array_equal(*kernels)


def test_labels_that_say_nothing_are_not_certified():
    model, inputs, labels = small(learnable=False)
    found, _ = certificate.certify_rounded(model, inputs, labels)
    assert found.bound >= 0.5


def test_a_model_that_cannot_be_rounded_is_named():
    model, inputs, labels = small(count=20)
    with pytest.raises(ValueError, match="labels"):
        certificate.certify_rounded(model, inputs, labels + 1)
    model.readout.bias[...] = jnp.array([jnp.nan, 0.0])
    with pytest.raises(ValueError, match="must be finite"):
        certificate.certify_rounded(model, inputs, labels)


@pytest.mark.parametrize("given", [{"delta": 1.0}, {"models": 0}])
def test_what_the_bound_may_fail_by_is_checked_before_anything_is_computed(given):
    def logits(model, inputs):
        raise AssertionError("the search began")

    model, inputs, labels = small(count=20)
    (name,) = given
    with pytest.raises(ValueError, match=name):
        certificate.certify_rounded(model, inputs, labels, logits=logits, **given)
    long = np.full_like(inputs, np.inf)  # which is found next
    with pytest.raises(ValueError, match=name):
        certificate.certify(
            model.rnn, model.readout, long, labels, inputs_bound=1.0, **given
        )
