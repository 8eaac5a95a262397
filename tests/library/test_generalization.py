"""The certificate: its parts against definitions, its figures, what it must obey."""

import dataclasses
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from svdrnn.certificate import generalization as gen


def classifiers(**changes):
    given = dict(
        features=1,
        hidden=16,
        classes=10,
        reflectors=(2, 2),
        radius=0.01,
        steps=784,
        inputs_bound=1.0,
    )
    return gen.Classifiers(**(given | changes))


NORMS = gen.Norms(input_weights=5, bias=2, readout=4, readout_bias=1)


# ---- kl^{-1}.


def kl(q, p):
    left = q * math.log(q / p) if q > 0 else 0.0
    return left + ((1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0)


def bisected(q, a):
    """The largest p in [q, 1) with kl(q, p) <= a, in 200 halvings."""
    low, high = q, 1 - 2**-53
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(q, middle) <= a else (low, middle)
    return low


@hypothesis.given(st.floats(0, 0.999), st.floats(1e-4, 5))
def test_kl_inverse_is_that_of_bisection(q, a):
    assert gen.kl_inverse(q, a) == pytest.approx(bisected(q, a), abs=1e-10)


def test_kl_inverse_at_its_ends():
    assert gen.kl_inverse(0.0, 0.3) == pytest.approx(-math.expm1(-0.3), rel=1e-15)
    assert gen.kl_inverse(1.0, 0.3) == 1
    assert gen.kl_inverse(0.2, math.inf) == 1
    for q in (0.0, 1e-300, 0.2, 1 - 1e-12):
        assert q <= gen.kl_inverse(q, 0.0) <= q + 1e-7
        assert gen.kl_inverse(q, 1e4) == 1


# ---- Sensitivity.


def draw(generator, kind, norms):
    """Parameters of a classifier within the norms, in float64; reflectors unit."""
    n = kind.hidden

    def ball(shape, bound):
        value = generator.standard_normal(shape)
        return bound * value / np.linalg.norm(value)

    def rows(count):
        found = np.triu(generator.standard_normal((count, n)))
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return {
        "u": rows(kind.reflectors[0]),
        "v": rows(kind.reflectors[1]),
        "sigma": kind.center + kind.radius * generator.uniform(-1, 1, n),
        "m": ball((n, kind.features), norms.input_weights),
        "b": ball(n, norms.bias),
        "y": ball((kind.classes, n), norms.readout),
        "c": ball(kind.classes, norms.readout_bias),
    }


def near(generator, parameters, kind, norms, scale):
    """Other parameters of the class, as far from these as `scale` says."""
    others = draw(generator, kind, norms)
    mixed = {
        name: value + scale * (others[name] - value)
        for name, value in parameters.items()
    }
    for name in "uv":
        mixed[name] /= np.linalg.norm(mixed[name], axis=1, keepdims=True)
    return mixed


def orthogonal(rows):
    q = np.eye(rows.shape[1])
    for u in rows:
        q = q - 2 * np.outer(q @ u, u)
    return q


def transition(parameters):
    left, right = orthogonal(parameters["u"]), orthogonal(parameters["v"])
    return left @ np.diag(parameters["sigma"]) @ right.T


def run(parameters, inputs, phi):
    """States (time, items, n) and logits (items, classes)."""
    w, h, states = transition(parameters), 0.0, []
    h = np.zeros((inputs.shape[1], w.shape[0]))
    for x in inputs:
        h = phi(h @ w.T + x @ parameters["m"].T + parameters["b"])
        states.append(h)
    return np.stack(states), h @ parameters["y"].T + parameters["c"]


def distance(one, other, slopes):
    """The right side of the inequality, with dW itself."""
    spectral = np.linalg.norm(transition(one) - transition(other), 2)
    moved = {name: np.linalg.norm(one[name] - other[name]) for name in "mbyc"}
    return (
        slopes.transition * spectral
        + slopes.input_weights * moved["m"]
        + slopes.bias * moved["b"]
        + slopes.readout * moved["y"]
        + slopes.readout_bias * moved["c"]
    )


def leaky(z):
    return np.where(z >= 0, z, 0.1 * z)


@pytest.mark.parametrize("phi", [leaky, np.tanh, lambda z: z])
@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("radius", [0.0, 0.01, 0.5])
def test_logits_differ_by_at_most_what_the_inequality_says(radius, steps, phi):
    kind = classifiers(
        features=3, hidden=6, classes=4, radius=radius, steps=steps, inputs_bound=1.5
    )
    norms = gen.Norms(input_weights=2, bias=0.5, readout=3, readout_bias=1)
    slopes = gen.sensitivity(kind, norms)
    for seed in range(20):
        generator = np.random.default_rng(seed)
        one = draw(generator, kind, norms)
        other = near(generator, one, kind, norms, 10.0 ** -generator.uniform(0, 6))
        inputs = generator.standard_normal((steps, 50, 3))
        inputs *= 1.5 / np.linalg.norm(inputs, axis=-1, keepdims=True)
        states, logits = run(one, inputs, phi)
        assert np.linalg.norm(states[-1], axis=-1).max() <= slopes.readout * (1 + 1e-12)
        moved = np.linalg.norm(logits - run(other, inputs, phi)[1], axis=-1).max()
        assert moved <= distance(one, other, slopes) * (1 + 1e-9) + 1e-12
        # W moves no more than its factors say.
        factors = sum(
            2 * kind.beta * np.linalg.norm(one[s] - other[s], axis=1).sum()
            for s in "uv"
        )
        factors += np.abs(one["sigma"] - other["sigma"]).max()
        spectral = np.linalg.norm(transition(one) - transition(other), 2)
        assert spectral <= factors * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.1])
@pytest.mark.parametrize("moved", ["w", "m", "b", "y", "c"])
def test_each_constant_of_the_inequality_is_attained(moved, beta):
    # One unit that sums a constant input: the worst case of every inequality used.
    steps, bound = 20, 2.0
    kind = classifiers(
        hidden=1,
        reflectors=(0, 0),
        radius=0,
        center=beta,
        steps=steps,
        inputs_bound=bound,
    )
    norms = gen.Norms(input_weights=3, bias=0.5, readout=4, readout_bias=1)
    slopes = gen.sensitivity(kind, norms)
    names = {
        "w": "transition",
        "m": "input_weights",
        "b": "bias",
        "y": "readout",
        "c": "readout_bias",
    }
    values = {"w": beta, "m": 3.0, "b": 0.5, "y": 4.0, "c": 1.0}

    def logit(w, m, b, y, c):
        h = 0.0
        for _ in range(steps):
            h = w * h + m * bound + b
        return y * h + c

    small = 1e-7
    change = logit(**values) - logit(**(values | {moved: values[moved] - small}))
    assert change / small == pytest.approx(getattr(slopes, names[moved]), rel=1e-4)


def test_constants_too_large_are_infinite_and_the_bound_is_one():
    kind = classifiers(radius=3.0)
    assert gen.sensitivity(kind, NORMS).transition == math.inf
    found = gen.bound(kind, NORMS, 0.0, gamma=1, examples=10**9)
    assert found.bound == 1


# ---- The cover.


@pytest.mark.parametrize("eps", [0.03, 0.1, 0.24, 0.7, 3.0])
def test_the_count_of_a_net_is_enough_in_one_dimension(eps):
    kind = classifiers(radius=1.5)
    norms = dataclasses.replace(NORMS, bias=1.5)
    widths = {group.name: group.width for group in gen.groups(kind, norms)}
    # Points inside [-r, r], from left to right, each covers what is within eps.
    r, counted, covered = 1.5, 0, -1.5
    while covered < r:
        covered, counted = min(covered + eps, r) + eps, counted + 1
    assert counted == max(1, math.ceil(r / eps))
    assert counted <= 1 + widths["sigma"] / eps  # of half-width r
    assert counted <= 1 + widths["bias"] / eps  # a ball of radius r


def test_one_parameter_is_covered_by_direct_counting():
    # f = c alone, since nothing else can move: h = 0 with M = b = Y = 0.
    kind = classifiers(features=1, hidden=1, classes=2, reflectors=(0, 0), radius=0)
    norms = gen.Norms(input_weights=0, bias=0, readout=0, readout_bias=1.5)
    eta = 0.01
    only = [group for group in gen.groups(kind, norms) if group.width > 0]
    assert [(each.name, each.dimension, each.width) for each in only] == [
        ("readout_bias", 2, 3.0)
    ]
    total = gen.dimensions(kind)
    assert total == 1 + 1 + 2 + 2
    eps = eta * 2 / total
    assert gen.log_cover(kind, norms, eta) == pytest.approx(2 * math.log(1 + 3.0 / eps))
    # Squares of diagonal 2 eps that meet the disc are a cover, and are fewer.
    side = math.sqrt(2) * eps
    edge = np.arange(-math.ceil(1.5 / side), math.ceil(1.5 / side)) * side
    nearest = np.maximum(0, np.maximum(edge, -(edge + side)))
    squares = np.sum(nearest[:, None] ** 2 + nearest[None, :] ** 2 <= 1.5**2)
    assert math.log(squares) <= gen.log_cover(kind, norms, eta)


def test_every_sphere_has_a_net_of_the_size_counted():
    # A greedy maximal eps-separated set is an internal eps-net, and never larger.
    generator = np.random.default_rng(0)
    points = generator.standard_normal((4000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    widths = {group.name: group.width for group in gen.groups(classifiers(), NORMS)}
    for eps in (0.2, 0.5, 1.0):
        left, net = points, 0
        while len(left):
            left = left[np.linalg.norm(left - left[0], axis=1) > eps]
            net += 1
        assert net <= (1 + widths["u_vectors[0]"] / eps) ** 3


def test_widths_of_nets_add_up_to_eta():
    kind, eta = classifiers(), 0.01
    parts = gen.groups(kind, NORMS)
    total = sum(group.dimension for group in parts)
    assert total == gen.dimensions(kind) == 280
    widths = [eta * g.dimension / (g.sensitivity * total) for g in parts]
    moved = sum(w * g.sensitivity for w, g in zip(widths, parts, strict=True))
    assert moved == pytest.approx(eta)
    count = sum(
        g.dimension * math.log(1 + g.width / w)
        for g, w in zip(parts, widths, strict=True)
    )
    count += 4 * math.log(2)
    assert gen.log_cover(kind, NORMS, eta) == pytest.approx(count, rel=1e-12)


def test_what_is_absent_is_not_covered():
    names = [group.name for group in gen.groups(classifiers(radius=0), NORMS)]
    assert "sigma" not in names
    assert gen.dimensions(classifiers(bias=False)) == 280 - 16
    assert gen.dimensions(classifiers(readout_bias=False)) == 280 - 10
    none = dataclasses.replace(NORMS, bias=0.0)
    found = gen.bound(classifiers(bias=False), none, 0.1, gamma=1, examples=55_000)
    assert found.norms.bias == 0
    with pytest.raises(ValueError, match="bias must be 0 where there is none, got 2.0"):
        gen.bound(classifiers(bias=False), NORMS, 0.1, gamma=1, examples=55_000)


# ---- The grid.


@hypothesis.given(st.floats(1e-9, 1e9))
def test_rounding_up_gives_the_next_of_the_grid(value):
    k, rounded = gen.round_up(value)
    assert rounded == 2.0 ** (k / 4)
    assert rounded * 2**-0.25 * (1 - 1e-15) < value <= rounded


def test_rounding_up_what_lies_on_the_grid_and_zero():
    assert [gen.round_up(2.0 ** (k / 4)) for k in range(-40, 41)] == [
        (k, 2.0 ** (k / 4)) for k in range(-40, 41)
    ]
    assert gen.round_up(0.0, least=-8) == (-8, 0.25)
    with pytest.raises(ValueError, match="value must be .*at most 8.98"):
        gen.round_up(1.7e308)


@pytest.mark.filterwarnings("error")
def test_what_is_out_of_range_is_a_bound_of_one():
    kind = classifiers(radius=0.1, steps=7050)
    assert gen.bound(kind, NORMS, 0.1, gamma=2, examples=1000).bound == 1
    assert gen.kl_inverse(1 - 1e-12, 1e300) == 1


def test_choices_cost_no_more_than_there_is():
    # The parts of delta that all choices of one number have: at most 1 together.
    parts = [math.exp(-gen.log_choices((k,))) for k in range(-20_000, 20_001)]
    assert 0.99 < sum(parts) < 1
    assert gen.log_choices((0, 3)) == pytest.approx(2 * math.log(2.3) + math.log(16))


# ---- Margins and ramp loss.


def test_margins_and_ramp_loss_by_hand():
    logits = np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 5.0, 4.5]])
    margins = gen.margins(logits, np.array([0, 1, 2]))
    np.testing.assert_array_equal(margins, [2.0, 0.0, -0.5])
    assert gen.ramp_loss(margins, 4.0) == pytest.approx((0.5 + 1 + 1) / 3)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\], got values"):
        gen.margins(logits, np.array([0, 1, 3]))


def test_a_margin_moves_by_root_two_of_the_logits():
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((500, 5))
    labels = generator.integers(0, 5, 500)
    step = generator.standard_normal((500, 5))
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    before, after = (
        gen.margins(each, labels) for each in (logits, logits + 0.3 * step)
    )
    assert np.abs(after - before).max() <= math.sqrt(2) * 0.3
    # Attained: the two largest move against each other.
    one, other = np.array([[1.0, 0.0]]), np.array([[1 - 0.3 / 2**0.5, 0.3 / 2**0.5]])
    change = gen.margins(one, np.array([0])) - gen.margins(other, np.array([0]))
    assert change[0] == pytest.approx(math.sqrt(2) * 0.3)


# ---- The bound.

# Of 55,000 examples, delta = 0.05, ramp loss 0.15 at margin 2, norms 5, 2, 4, 1.
FIGURES = {
    (784, 16, 2): (0.35, 0.38, 0.61, 0.83),
    (784, 32, 4): (0.49, 0.54, 0.83, 0.97),
    (784, 128, 16): (0.97, 0.99, 1.0, 1.0),
    (28, 32, 4): (0.61, 0.61, 0.64, 0.68),
}


@pytest.mark.parametrize("shape", FIGURES)
def test_figures_of_assumed_norms(shape):
    steps, hidden, m = shape
    features = 784 // steps
    for radius, figure in zip((0.001, 0.01, 0.1, 0.3), FIGURES[shape], strict=True):
        kind = classifiers(
            features=features,
            hidden=hidden,
            reflectors=(m, m),
            radius=radius,
            steps=steps,
            inputs_bound=math.sqrt(features),
        )
        found = gen.bound(kind, NORMS, 0.15, gamma=2, examples=55_000)
        assert round(found.bound, 2) == figure


def test_the_bound_is_its_parts():
    found = gen.bound(classifiers(), NORMS, 0.15, gamma=2, examples=55_000, models=7)
    assert found.norms.input_weights == 2 ** (10 / 4)  # 5, rounded up
    assert found.slack == pytest.approx(math.sqrt(2) * found.eta / found.gamma)
    cover = gen.log_cover(classifiers(), found.norms, found.eta)
    assert found.log_cover == pytest.approx(cover, rel=1e-12)
    choices = math.log(7 / 0.05) + gen.log_choices((4, 10, 4, 8, 0))
    assert found.log_choices == pytest.approx(choices)
    again = gen.kl_inverse(0.15 + found.slack, (cover + choices) / 55_000)
    assert found.bound == pytest.approx(again + found.slack, rel=1e-12)


def test_eta_is_near_the_best_and_does_not_see_the_ramp_loss():
    found = [
        gen.bound(classifiers(), NORMS, ramp, gamma=2, examples=55_000)
        for ramp in (0.0, 0.15, 0.6)
    ]
    assert len({each.eta for each in found}) == 1
    for each, ramp in zip(found, (0.0, 0.15, 0.6), strict=True):
        for factor in 2.0 ** np.arange(-6, 7):
            slack = factor * each.slack
            cover = gen.log_cover(classifiers(), each.norms, factor * each.eta)
            rate = (cover + each.log_choices) / 55_000
            assert each.bound <= gen.kl_inverse(ramp + slack, rate) + slack + 0.004


def values(field, choices, **fixed):
    """The bound at the ramp loss that eta is the best for."""
    found = []
    for choice in choices:
        given = dict(gamma=2, examples=55_000) | fixed
        kind, norms, ramp = classifiers(), NORMS, 0.1
        if field in given or field in ("delta", "models"):
            given[field] = choice
        elif field == "ramp_loss":
            ramp = choice
        elif hasattr(norms, field):
            norms = dataclasses.replace(norms, **{field: choice})
        else:
            kind = classifiers(**{field: choice})
        found.append(gen.bound(kind, norms, ramp, **given).bound)
    return found


@pytest.mark.parametrize(
    "field, choices",
    [
        ("radius", (0, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0)),
        ("center", (0.5, 0.9, 1.0, 1.05)),
        ("steps", (1, 2, 28, 112, 784, 3000)),
        ("inputs_bound", (0.1, 1.0, 28.0)),
        ("hidden", (4, 8, 16, 32, 64)),
        ("input_weights", (0.0, 1.0, 7.0, 100.0)),
        ("readout", (0.1, 1.0, 7.0, 100.0)),
        ("ramp_loss", (0.0, 0.05, 0.3, 0.8, 1.0)),
        ("models", (1, 10, 1000)),
    ],
)
def test_more_is_worse(field, choices):
    found = values(field, choices)
    assert found == sorted(found)
    assert found[0] < found[-1]


@pytest.mark.parametrize(
    "field, choices",
    [
        ("examples", (1, 100, 1000, 10_000, 55_000, 10**6, 10**9)),
        ("delta", (1e-9, 1e-3, 0.05, 0.5)),
    ],
)
def test_more_is_better(field, choices):
    found = values(field, choices)
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_with_examples_without_end_the_bound_is_the_ramp_loss():
    found = gen.bound(classifiers(), NORMS, 0.15, gamma=2, examples=10**13)
    assert found.bound == pytest.approx(0.15, abs=1e-4)


@pytest.mark.slow
@hypothesis.settings(max_examples=25)
@hypothesis.given(
    st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(0, 5), st.integers(1, 4000)
)
def test_never_above_one_never_below_the_training_error(seed, shift, spread, examples):
    generator = np.random.default_rng(seed)
    margins = shift + spread * generator.standard_normal(examples)
    found = gen.certificate(classifiers(), NORMS, margins)
    assert found.training_error == np.mean(margins <= 0)
    assert found.training_error <= found.ramp_loss <= found.bound <= 1


def test_the_margin_is_the_best_of_the_grid():
    margins = np.random.default_rng(0).exponential(1.0, 55_000)
    found = gen.certificate(classifiers(), NORMS, margins)
    others = [
        gen.bound(
            classifiers(),
            NORMS,
            gen.ramp_loss(margins, 2.0 ** (k / 4)),
            gamma=2.0 ** (k / 4),
            examples=55_000,
        ).bound
        for k in range(-60, 20, 3)
    ]
    assert found.bound <= min(others) < 0.5
    assert found.ramp_loss == gen.ramp_loss(margins, found.gamma)


def test_doubled_logits_at_doubled_norms_are_as_good():
    # What counts is the margin beside the norms: both on the grid's own steps.
    margins = np.random.default_rng(0).exponential(1.0, 55_000)
    double = dataclasses.replace(NORMS, readout=8, readout_bias=2)
    one = gen.certificate(classifiers(), NORMS, margins)
    other = gen.certificate(classifiers(), double, 2 * margins)
    assert other.gamma == pytest.approx(2 * one.gamma)
    assert other.bound == pytest.approx(one.bound, abs=2e-3)


def test_random_labels_get_no_certificate():
    # True error 0.9, whatever is fitted: no certificate may be much below it.
    generator = np.random.default_rng(0)
    kind = classifiers(features=2, hidden=8, reflectors=(1, 1), steps=6)
    parameters = draw(generator, kind, NORMS)
    inputs = generator.standard_normal((6, 3000, 2))
    inputs /= np.linalg.norm(inputs, axis=-1, keepdims=True)
    labels = generator.integers(0, 10, 3000)
    states = run(parameters, inputs, leaky)[0][-1]
    readout = np.linalg.lstsq(states, np.eye(10)[labels], rcond=None)[0]
    norms = dataclasses.replace(NORMS, readout=np.linalg.norm(readout))
    margins = gen.margins(states @ readout, labels)
    assert np.mean(margins <= 0) < 0.9  # fitted
    found = gen.certificate(kind, norms, margins)
    assert found.bound >= 0.9


# ---- Errors.


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hidden": 0}, "hidden must be an integer of at least 1, got 0"),
        ({"classes": 1}, "classes must be an integer of at least 2, got 1"),
        ({"radius": -0.1}, "radius must be finite and at least 0, got -0.1"),
        ({"inputs_bound": 0.0}, "inputs_bound must be finite and above 0, got 0.0"),
        ({"reflectors": (17, 2)}, "reflectors must be a pair of at most hidden = 16"),
        ({"center": math.nan}, "center must be finite, got nan"),
    ],
)
def test_what_no_class_can_have_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        classifiers(**changes)


def test_numbers_out_of_range_are_refused():
    good = dict(gamma=1, examples=100)
    for changes, words in (
        ({"gamma": 0}, "gamma must be finite and above 0, got 0"),
        ({"examples": 0}, "examples must be an integer of at least 1, got 0"),
        ({"delta": 1}, "delta must be finite and above 0 and below 1, got 1"),
    ):
        with pytest.raises(ValueError, match=words):
            gen.bound(classifiers(), NORMS, 0.1, **(good | changes))
    with pytest.raises(ValueError, match="ramp_loss must be finite and at least 0"):
        gen.bound(classifiers(), NORMS, 1.1, **good)
    with pytest.raises(ValueError, match="readout must be finite and at least 0"):
        dataclasses.replace(NORMS, readout=-1)
    with pytest.raises(ValueError, match="margins must have shape"):
        gen.certificate(classifiers(), NORMS, np.zeros(0))
    with pytest.raises(ValueError, match="margins must be finite"):
        gen.certificate(classifiers(), NORMS, np.array([np.nan]))
