r"""A bound on the error of a Spectral-RNN classifier, with every constant: numpy.

The classifiers are

    h_0 = 0,  h_t = phi(W h_{t-1} + M x_t + b),  f(x) = Y h_T + c,

with W = U Sigma V^T of m1 + m2 reflectors and singular values within `radius` of
`center`, phi 1-Lipschitz with phi(0) = 0, and ||x_t|| <= B for every input that there
can be. With probability at least 1 - delta over the training examples, drawn
independently, every such classifier at once has

    error <= kl^{-1}(ramp + s, (ln N + ln(1 / delta')) / examples) + s,
    s = sqrt(2) eta / gamma,

where ramp is its mean ramp loss on the training examples at the margin gamma and N
counts the members of a finite set of classifiers that has one within eta of each.

`certificate` is the whole of it; the other functions are its parts. All is computed in
float64. docs/generalization.md has the derivation.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Integer

from svdrnn import checks
from svdrnn._types import Count, Number

# Norm bounds and margins come from the grid of 2^(k / GRID), k an integer.
GRID = 4

# ln(_WEIGHT (|k| + 1)^2) pays for the choice of k: the sum over all integers k of
# 1 / (|k| + 1)^2 is pi^2 / 3 - 1 < 2.3.
_WEIGHT = 2.3

# A norm of zero needs some k, and margins are tried from 2^-20 to 2^20.
_LEAST_NORM = -40
_MARGINS = range(-80, 81)

# eta is tried from gamma down to gamma 2^-30, and is the best for this ramp loss: to be
# fixed before the data are seen it may not depend on theirs.
_ETAS = 2.0 ** (-np.arange(121) / GRID)
_REFERENCE = 0.1

# Sums over steps and the list of groups are as long as these numbers.
_MOST = 10**6

# Newton's method converges quadratically, and halves its error where a is about 0.
_MOST_ITERATIONS = 100
_LARGEST = 1e3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifiers:
    """What is fixed before the training examples are seen.

    Attributes:
      features: n_in, of one x_t.
      hidden: n, size of the state.
      classes: of the labels.
      reflectors: (m1, m2), those of U and those of V.
      radius: r >= 0, how far a singular value may be from the center.
      center: sigma*.
      steps: T.
      inputs_bound: B >= ||x_t||_2 for every input that there can be. An assumption
        about where examples come from: never to be read off them.
      bias: whether there is a b.
      readout_bias: whether there is a c.

    Raises:
      ValueError: a number out of range; more than n reflectors.
    """

    features: int
    hidden: int
    classes: int
    reflectors: tuple[int, int]
    radius: float
    steps: int
    inputs_bound: float
    center: float = 1.0
    bias: bool = True
    readout_bias: bool = True

    def __post_init__(self):
        least = {"features": 1, "hidden": 1, "steps": 1, "classes": 2}
        values = {
            name: checks.check_integer(name, getattr(self, name), bound)
            for name, bound in least.items()
        }
        for name, number in values.items():
            if number > _MOST:
                raise ValueError(f"{name} must be at most {_MOST}, got {number}")
        pair = isinstance(self.reflectors, (tuple, list))
        counts = tuple(
            checks.check_integer("reflectors", count, 0)
            for count in (self.reflectors if pair else ())
        )
        if len(counts) != 2 or max(counts) > self.hidden:
            raise ValueError(
                f"reflectors must be a pair of at most hidden = {self.hidden}, got"
                f" {self.reflectors!r}"
            )
        numbers = {
            "radius": checks.check_finite("radius", self.radius, least=0),
            "center": checks.check_finite("center", self.center),
            "inputs_bound": checks.check_finite(
                "inputs_bound", self.inputs_bound, above=0
            ),
        }
        for name, value in (values | numbers | {"reflectors": counts}).items():
            object.__setattr__(self, name, value)  # Python's own numbers

    @property
    def beta(self) -> float:
        """|center| + radius, which bounds ||W||_2."""
        return abs(self.center) + self.radius


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norms:
    """Bounds on what is not bounded by construction.

    Attributes:
      input_weights: B_M >= ||M||_F.
      bias: B_b >= ||b||_2.
      readout: B_Y >= ||Y||_F.
      readout_bias: B_c >= ||c||_2.

    Raises:
      ValueError: a number that is negative or not finite.
    """

    input_weights: float
    bias: float
    readout: float
    readout_bias: float

    def __post_init__(self):
        for name, value in vars(self).items():
            object.__setattr__(self, name, checks.check_finite(name, value, least=0))


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How much the logits move, at most, with the parameters: see `sensitivity`.

    Attributes:
      transition: L_W, of W in the spectral norm.
      input_weights: L_M, of M in the Frobenius norm.
      bias: L_b, of b.
      readout: L_Y, of Y in the Frobenius norm; H_T, which bounds ||h_T||.
      readout_bias: of c, 1.
    """

    transition: float
    input_weights: float
    bias: float
    readout: float
    readout_bias: float = 1.0


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that the cover treats alike.

    An eps-net of them has at most (1 + width / eps)^dimension points: of a ball with
    radius R, width = 2 R; of intervals of half-width r under the maximum norm,
    width = r.
    """

    name: str
    dimension: int
    width: float
    sensitivity: float


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A bound and what it is made of.

    Attributes:
      bound: on the probability of an error, at most 1.
      ramp_loss: mean ramp loss on the training examples at the margin `gamma`.
      gamma: the margin.
      eta: how close in the logits the finite set comes to every classifier.
      slack: s = sqrt(2) eta / gamma, what a ramp loss changes by within eta.
      log_cover: ln N.
      log_choices: ln(1 / delta'), for delta and for the choice of norms, margin and
        model.
      dimensions: D, parameters that are covered.
      examples: training examples.
      delta: the probability with which the bound may fail.
      norms: the bounds on norms that were used, on the grid.
      training_error: share of the training examples whose margin is not positive; None
        where a ramp loss was given in the place of margins.
      models: of how many models this one was chosen.
    """

    bound: float
    ramp_loss: float
    gamma: float
    eta: float
    slack: float
    log_cover: float
    log_choices: float
    dimensions: int
    examples: int
    delta: float
    norms: Norms
    training_error: float | None = None
    models: int = 1


def kl_inverse(q: Number, a: Number) -> float:
    """The largest p in [q, 1] with kl(q, p) <= a.

    kl(q, p) = q ln(q / p) + (1 - q) ln((1 - q) / (1 - p)). Found by Newton's method in
    x = -ln(1 - p), in which kl is convex and from a start above the root falls to it;
    about 1e-8 above it at worst, where a is about 0.

    Args:
      q: mean of losses, in [0, 1].
      a: at least 0; infinity gives 1.

    Raises:
      ValueError: a number out of range.
    """
    q = checks.check_finite("q", q, least=0, most=1)
    a = math.inf if a == math.inf else checks.check_finite("a", a, least=0)
    return float(_kl_inverses(np.array([q]), np.array([a]))[0])


def _kl_inverses(q, a):
    """`kl_inverse` of arrays, of the same length."""
    inverses = np.ones(len(q))
    inside = (q < 1) & np.isfinite(a)
    q, a = q[inside], a[inside]
    entropy = _x_log_x(q) + _x_log_x(1 - q)
    # kl without -q ln p, which is positive; where x is above 40, p is 1 to rounding.
    with np.errstate(over="ignore"):
        x = np.minimum((a - entropy) / (1 - q), _LARGEST)
    for _ in range(_MOST_ITERATIONS):
        p = -np.expm1(-x)
        above = p > q
        safe = np.where(above, p, 1.0)
        excess = entropy + (1 - q) * x - q * np.log(safe) - a
        with np.errstate(over="ignore"):
            step = np.where(above, excess * safe / np.where(above, p - q, 1.0), 0.0)
        following = x - np.maximum(step, 0.0)
        if np.all(following == x):
            break
        x = following
    inverses[inside] = np.maximum(q, -np.expm1(-x))
    return inverses


def _x_log_x(x):
    return x * np.log(np.where(x > 0, x, 1.0))


def sensitivity(classifiers: Classifiers, norms: Norms) -> Sensitivity:
    r"""The constants L of the inequality between two classifiers of a class.

    With S_t = sum_{k<t} beta^k and H_t = (B_M B + B_b) S_t >= ||h_t||, two of them give
    logits that differ, for every input, by at most

        L_W ||dW||_2 + L_M ||dM||_F + L_b ||db|| + L_Y ||dY||_F + ||dc||,

        L_W = B_Y sum_{t=1}^T beta^{T-t} H_{t-1}
            = B_Y (B_M B + B_b) sum_{e=0}^{T-2} (e + 1) beta^e,
        L_M = B_Y B S_T,  L_b = B_Y S_T,  L_Y = H_T.

    A constant too large for float64 is infinite. Cost O(T).
    """
    steps, beta, bound = classifiers.steps, classifiers.beta, classifiers.inputs_bound
    drive = norms.input_weights * bound + norms.bias
    with np.errstate(over="ignore", under="ignore"):
        powers = beta ** np.arange(steps, dtype=np.float64)
        total = float(np.sum(powers))
        counts = np.arange(1, steps, dtype=np.float64)
        weighted = float(np.sum(counts * powers[: steps - 1]))
    return Sensitivity(
        transition=_product(norms.readout, drive, weighted),
        input_weights=_product(norms.readout, bound, total),
        bias=_product(norms.readout, total),
        readout=_product(drive, total),
    )


def groups(classifiers: Classifiers, norms: Norms) -> tuple[Group, ...]:
    """The parameters in groups: each reflector, sigma, M, b, Y and c.

    Reflectors count at unit length: ||H(u) - H(u')||_2 <= 2 ||u - u'||, and so
    ||dW||_2 <= 2 beta sum_i ||du_i|| + 2 beta sum_j ||dv_j|| + max_i |dsigma_i|.
    A radius of 0 leaves sigma out, and a bias that is not there is none.
    """
    slopes = sensitivity(classifiers, norms)
    n = classifiers.hidden
    turn = _product(2 * classifiers.beta, slopes.transition)
    of_transition = [
        Group(f"{side}_vectors[{i}]", n - i, 2.0, turn)
        for side, count in zip("uv", classifiers.reflectors, strict=True)
        for i in range(count)
    ]
    if classifiers.radius > 0:
        of_transition.append(Group("sigma", n, classifiers.radius, slopes.transition))
    sizes = {
        "input_weights": n * classifiers.features,
        "readout": classifiers.classes * n,
    }
    if classifiers.bias:
        sizes["bias"] = n
    if classifiers.readout_bias:
        sizes["readout_bias"] = classifiers.classes
    return (
        *of_transition,
        *(
            Group(name, size, 2 * getattr(norms, name), getattr(slopes, name))
            for name, size in sizes.items()
        ),
    )


def dimensions(classifiers: Classifiers) -> int:
    """D, the parameters that are covered: those of the model, less a frozen sigma."""
    ones = Norms(input_weights=1, bias=1, readout=1, readout_bias=1)
    return sum(group.dimension for group in groups(classifiers, ones))


def log_cover(classifiers: Classifiers, norms: Norms, eta: Number) -> float:
    r"""ln N of a finite set that has a member within eta of every classifier.

    In the Euclidean norm of the logits, for all inputs at once. Group g of dimension
    d_g gets a net of width eps_g = eta d_g / (L_g D), and the members together are

        ln N = sum_g d_g ln(1 + width_g / eps_g) + (m1 + m2) ln 2,

    the last for which reflectors are zero, hence the identity.

    Raises:
      ValueError: an `eta` that is not above 0.
    """
    etas = np.array([checks.check_finite("eta", eta, above=0)])
    return float(_log_covers(classifiers, norms, etas)[0])


def _log_covers(classifiers, norms, etas):
    """`log_cover` for each of several eta."""
    parts = groups(classifiers, norms)
    sizes = np.array([[group.dimension] for group in parts])
    reach = np.array([[_product(group.width, group.sensitivity)] for group in parts])
    with np.errstate(over="ignore"):  # infinity, of a bound of 1
        nets = sizes * np.log1p(reach * (np.sum(sizes) / sizes) / etas)
    return np.sum(nets, axis=0) + sum(classifiers.reflectors) * math.log(2)


def round_up(value: Number, least: int | None = None) -> tuple[int, float]:
    """The smallest k with 2^(k / 4) >= value, and that power.

    Args:
      value: at least 0.
      least: the smallest k to give; needed for a value of 0.

    Raises:
      ValueError: a value out of range, which ends at 2^1023.
    """
    value = checks.check_finite("value", value, least=0, most=2.0**1023)
    if least is not None and value <= 2.0 ** (least / GRID):
        return least, 2.0 ** (least / GRID)
    k = math.ceil(GRID * math.log2(checks.check_finite("value", value, above=0)))
    k += 2.0 ** (k / GRID) < value  # the logarithm was rounded
    k -= 2.0 ** ((k - 1) / GRID) >= value
    return k, 2.0 ** (k / GRID)


def log_choices(exponents: tuple[int, ...]) -> float:
    """What is paid for having chosen these k after seeing the data.

    sum_k ln(2.3 (|k| + 1)^2): a union bound in which the choice k has the part
    1 / (2.3 (|k| + 1)^2) of delta.
    """
    return sum(math.log(_WEIGHT) + 2 * math.log1p(abs(k)) for k in exponents)


def margins(
    logits: Float[np.ndarray, "examples classes"],
    labels: Integer[np.ndarray, " examples"],
) -> Float[np.ndarray, " examples"]:
    """f_y - max_{j != y} f_j of every example: positive where it is classified right.

    Args:
      logits: (examples, classes).
      labels: (examples,), from 0 to classes - 1.

    Raises:
      ValueError: shapes or dtypes that do not fit, or a label out of range.
    """
    outputs, labels = np.asarray(logits), np.asarray(labels)
    checks.check_floating("logits", outputs)
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            f"logits must have shape (examples, classes) with two classes or more, got"
            f" {outputs.shape}"
        )
    logits = outputs.astype(np.float64)
    count, classes = logits.shape
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of shape ({count},), got {labels.dtype} of shape"
            f" {labels.shape}"
        )
    if count and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"labels must lie in [0, {classes - 1}], got values from {labels.min()} to"
            f" {labels.max()}"
        )
    rows = np.arange(count)
    others = logits.copy()
    others[rows, labels] = -np.inf
    return logits[rows, labels] - others.max(axis=1)


def ramp_loss(margins: Float[np.ndarray, " examples"], gamma: Number) -> float:
    """The mean of clip(1 - margin / gamma, 0, 1), at least the share of errors."""
    gamma = checks.check_finite("gamma", gamma, above=0)
    ratio = np.asarray(margins, np.float64) / gamma
    return float(np.mean(np.clip(1 - ratio, 0, 1)))


def check_chance(delta: Number, models: Count) -> tuple[float, int]:
    """(delta, models): by what probability a bound may fail, and over how many models.

    Raises:
      ValueError: delta is not between 0 and 1, or there is no model.
    """
    delta = checks.check_finite("delta", delta, above=0, below=1)
    return delta, checks.check_integer("models", models)


def bound(
    classifiers: Classifiers,
    norms: Norms,
    ramp_loss: Number,
    *,
    gamma: Number,
    examples: Count,
    delta: Number = 0.05,
    models: Count = 1,
) -> Certificate:
    """The bound of a classifier at one margin.

    eta is the one of a grid that gives the least bound at a ramp loss of 0.1, so that
    it depends on nothing of the training examples but what is paid for.

    Args:
      classifiers: the class, fixed before the data are seen.
      norms: of the classifier; they are rounded up on the grid.
      ramp_loss: its mean ramp loss on the training examples, at the margin `gamma` as
        rounded up on the grid.
      gamma: the margin; it is rounded up on the grid.
      examples: training examples.
      delta: the probability with which the bound may fail.
      models: of how many models, whose sizes were fixed beforehand, this is the best.

    Raises:
      ValueError: a number out of range.
    """
    ramp = checks.check_finite("ramp_loss", ramp_loss, least=0, most=1)
    delta, models = check_chance(delta, models)
    examples = checks.check_integer("examples", examples)
    k, gamma = round_up(checks.check_finite("gamma", gamma, above=0))
    chosen = {name: round_up(norm, _LEAST_NORM) for name, norm in vars(norms).items()}
    for name in ("bias", "readout_bias"):
        if not getattr(classifiers, name):
            if getattr(norms, name) > 0:
                raise ValueError(
                    f"{name} must be 0 where there is none, got {getattr(norms, name)}"
                )
            chosen[name] = (0, 0.0)
    rounded = Norms(**{name: value for name, (_, value) in chosen.items()})
    choices = log_choices((k, *(exponent for exponent, _ in chosen.values())))
    choices += math.log(models / delta)
    slacks = math.sqrt(2) * _ETAS
    covers = _log_covers(classifiers, rounded, gamma * _ETAS)
    rates = (covers + choices) / examples
    best = int(np.argmin(_values(_REFERENCE, slacks, rates)))
    return Certificate(
        bound=float(_values(ramp, slacks, rates)[best]),
        ramp_loss=ramp,
        gamma=gamma,
        eta=float(gamma * _ETAS[best]),
        slack=float(slacks[best]),
        log_cover=float(covers[best]),
        log_choices=choices,
        dimensions=dimensions(classifiers),
        examples=examples,
        delta=delta,
        norms=rounded,
        models=models,
    )


def certificate(
    classifiers: Classifiers,
    norms: Norms,
    margins: Float[np.ndarray, " examples"],
    *,
    delta: Number = 0.05,
    models: Count = 1,
) -> Certificate:
    """The least bound of a classifier over the margins of the grid.

    Args:
      classifiers: the class, fixed before the data are seen.
      norms: of the classifier.
      margins: (examples,), of every training example: see `margins`.
      delta: the probability with which the bound may fail.
      models: of how many models, whose sizes were fixed beforehand, this is the best.

    Returns:
      The certificate. Its bound is at most 1 and at least the training error, the
      share of margins that are not positive.

    Raises:
      ValueError: a number out of range; margins that are not finite, or none.
    """
    checks.check_floating("margins", np.asarray(margins))
    margins = np.asarray(margins, np.float64)
    if margins.ndim != 1 or margins.size == 0:
        raise ValueError(f"margins must have shape (examples,), got {margins.shape}")
    checks.check_finite_entries("margins", margins)
    certificates = [
        bound(
            classifiers,
            norms,
            ramp_loss(margins, gamma),
            gamma=gamma,
            examples=margins.size,
            delta=delta,
            models=models,
        )
        for gamma in (2.0 ** (k / GRID) for k in _MARGINS)
    ]
    best = min(certificates, key=lambda certificate: certificate.bound)
    return dataclasses.replace(best, training_error=float(np.mean(margins <= 0)))


def _values(ramp, slacks, rates):
    """kl^{-1}(ramp + s, rate) + s, at most 1, for each s and rate."""
    return np.minimum(1, _kl_inverses(np.minimum(1, ramp + slacks), rates) + slacks)


def _product(*factors: float) -> float:
    """The product, in which zero times infinity is zero."""
    return 0.0 if 0 in factors else math.prod(factors)
