"""Fields of config.model: what is refused by name, and which a model reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import svdrnn
from configs import common
from experiments import models
from experiments.models import build, recurrent, registry
from experiments.runs import identity
from experiments.tasks.addition import Addition
from experiments.tasks.copying import Copying
from experiments.training import assembly
from tests import oracles
from tests.experiments.small import changed_addition

RECURRENT = registry.names(True)


def check(name="spectral", **fields):
    config = changed_addition(
        **{f"model__{key}": value for key, value in fields.items()}
    )
    config.model.name = name
    build.check(config.model)


@pytest.mark.parametrize(
    "field,value,limit",
    [
        ("activation", "gelu", "modrelu"),
        ("method", "fast", "low_rank"),
        ("init", "zeros", "identity"),
        ("hidden", 0, "1"),
        ("radius", -0.1, "0"),
        ("radius", float("inf"), "finite"),
        ("radius", float("nan"), "finite"),
        ("center", -1.0, "0"),
        ("center", float("inf"), "finite"),
        ("init_sigma", 1.3, "strictly between 0.7 and 1.3"),
        ("init_sigma", (1.0, 2.0), "1 to 128 numbers"),
        ("init_sigma", "low", "numbers"),
        ("leak", 1.5, "1"),
        ("leak", -0.1, "0"),
        ("input_scale", 0.0, "0"),
        ("layers", 0, "1"),
        ("dropout", 1.0, "1"),
        ("dropout", -0.5, "0"),
        ("readout_activation", "modrelu", "tanh"),
        ("pool", "sum", "last, mean, max"),
        ("activation_every", 0, "1"),
        ("output_every", 0, "1"),
        ("embedding", 0, "1"),
        ("embedding", 2.5, "an integer"),
        ("reflectors", -1, "1"),
        ("reflectors", 0, "1"),
        ("reflectors", 2.5, "an integer"),
        ("reflectors", True, "an integer"),
        ("reflectors", (1, 2, 3), "a pair"),
    ],
)
def test_invalid_values_are_named(field, value, limit):
    shown = list(value) if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=rf"^config\.model\.{field} ") as raised:
        check(**{field: value})
    message = str(raised.value)
    assert limit in message and "\n" not in message
    assert message.endswith((f"got {value!r}", f"got {shown!r}"))


@pytest.mark.parametrize("value", [(0, 4), (4, 129), "many"])
def test_invalid_reflectors_are_named(value):
    with pytest.raises(ValueError, match=r"^config\.model\.reflectors .* got "):
        check(reflectors=value, init="random")


def test_radius_and_center_are_not_both_zero():
    check(center=0.0)
    check(radius=0.0)
    with pytest.raises(ValueError, match=r"^config\.model\.(radius|center) .*0"):
        check(center=0.0, radius=0.0)


def test_an_identity_acts_at_every_step():
    match = r"^config\.model\.activation_every must be 1 .*got 2"
    with pytest.raises(ValueError, match=match):
        check(activation="identity", activation_every=2)
    check(activation="tanh", activation_every=2)


@pytest.mark.parametrize(("task", "steps"), [(Copying, 25), (Addition, 5)])
def test_an_activation_that_no_sequence_is_long_enough_for_is_refused(task, steps):
    task = task(length=5, seed=0, batch_size=2)
    assert task.train_batch(0)["inputs"].shape[1] == task.time_steps == steps
    config = changed_addition(model__activation="tanh", model__activation_every=steps)

    def abstract():
        nnx.eval_shape(lambda: build.build(config.model, task, rngs=nnx.Rngs(0)))

    abstract()
    config.model.activation_every = steps + 1
    with pytest.raises(ValueError, match=rf"activation_every .* most {steps},.*never"):
        abstract()
    config.model.name = "lstm"  # it does not read the field
    abstract()


@pytest.mark.parametrize(
    ("field", "value", "task", "why"),
    [
        (
            "pool",
            "mean",
            {"readout": "all"},
            "'last' for addition, which has an output",
        ),
        ("bidirectional", True, {"stateful": True}, "False for addition, whose state"),
        ("output_every", 5, {"readout": "all"}, "1 for addition, which has an output"),
        ("output_every", 5, {}, "1 with config.model.layers 1 and .*pool 'last'"),
        (
            "activation_every",
            3,
            {"layers": 2, "output_every": 2},
            "at most 2, the time steps of addition that .*output_every gives to the",
        ),
    ],
)
def test_what_the_outputs_of_a_task_do_not_allow(field, value, task, why):
    addition = Addition(length=5, seed=0, batch_size=2)
    others = {
        name: task.pop(name) for name in ("layers", "output_every") if name in task
    }
    vars(addition).update(task)
    fields = {"output_every": 1, **others, field: value}
    config = changed_addition(**{f"model__{k}": v for k, v in fields.items()}).model
    with pytest.raises(ValueError, match=rf"^config\.model\.{field} .*{why}.*{value}"):
        build.build(config, addition, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("every", "task", "why"),
    [
        (2, {}, "a divisor of 5, the time steps of addition"),
        (7, {}, "a divisor of 5, the time steps of addition"),
        (2, {"time_steps": 1}, "a divisor of 5, the time steps of addition"),  # unknown
        (5, {"lengths": [3, 5]}, "1 for addition, whose sequences have lengths of the"),
    ],
)
def test_outputs_that_do_not_fit_the_batches(every, task, why):
    """Said when a run is made, outside of what is traced: a batch may come from JAX."""
    config = changed_addition(model__layers=2, model__output_every=every)
    config.train.batch_size = 2

    class Own(Addition):
        def train_batch(self, index):
            batch = super().train_batch(index)
            batch["inputs"] = np.asarray(jnp.asarray(batch["inputs"]) + 0.0)
            lengths = task.get("lengths")
            return batch if lengths is None else {**batch, "lengths": np.array(lengths)}

    own = Own(length=5, seed=0, batch_size=2)
    own.time_steps = task.get("time_steps", own.time_steps)
    with pytest.raises(ValueError, match=rf"^config\.model\.output_every .*{why}"):
        assembly.assemble(config, task=own)
    config.model.output_every = 1
    assembly.assemble(config, task=own)


def test_layers_above_begin_with_the_scale_of_their_own_steps():
    config = changed_addition(model__layers=2, model__input_scale=None).model
    config.update(hidden=64, output_every=25, activation="identity")
    model = build.build(
        config, Addition(length=100, seed=0, batch_size=2), rngs=nnx.Rngs(0)
    )
    config.update(output_every=1)
    plain = build.build(
        config, Addition(length=100, seed=0, batch_size=2), rngs=nnx.Rngs(0)
    )
    for i, factor in enumerate((1.0, 1 / 0.3)):  # at most 1, and 3 / sqrt(100)
        m, all_steps = (
            np.asarray(each.layers[i].cell.input_weights[...])
            for each in (model, plain)
        )
        np.testing.assert_allclose(m, factor * all_steps, rtol=1e-6)


def test_both_directions_have_no_tied_readout():
    match = r"^config\.model\.bidirectional must be False with .*tied.*got True$"
    with pytest.raises(ValueError, match=match):
        check(bidirectional=True, tied=True)
    check("mlp", bidirectional=True, tied=True)  # which reads neither


def test_a_readout_activation_that_changes_nothing_is_refused():
    match = r"^config\.model\.readout_activation .*identity or tanh.*got 'relu'"
    with pytest.raises(ValueError, match=match):
        check(activation="relu", readout_activation="relu")
    check(activation="relu", readout_activation="tanh")
    check("lstm", activation="relu", readout_activation="relu")  # it reads the last


@pytest.mark.slow
@pytest.mark.parametrize("last_only", [True, False])
@pytest.mark.parametrize("name,psi", [("relu", jax.nn.relu), ("tanh", jnp.tanh)])
def test_the_readout_activation_acts_on_what_is_read_alone(name, psi, last_only):
    layer = svdrnn.DenseRNN(2, 4, activation="identity", rngs=nnx.Rngs(0))
    readout = nnx.Linear(4, 3, rngs=nnx.Rngs(1))
    model = recurrent.SequenceModel(
        [layer], readout, last_only=last_only, readout_activation=name
    )
    inputs = jax.random.normal(jax.random.key(2), (5, 7, 2))
    outputs, carry = model(inputs)
    states = layer(inputs)
    assert jnp.any(states < 0)
    # The last state in the way in which the model has it: linear steps may be at once.
    last = layer(inputs, last_only=True) if last_only else states[:, -1]
    np.testing.assert_allclose(carry[0], last, rtol=1e-6)
    expected = readout(psi(states[:, -1] if last_only else states))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["spectral", "exprnn", "irnn"])
def test_without_an_input_scale_the_length_says_it(name):
    task = Addition(length=100, seed=0, batch_size=2)

    def first_input_weights(scale):
        config = changed_addition(model__input_scale=scale, model__layers=2).model
        config.update(name=name, hidden=4, reflectors=2, init="identity")
        build.check(config)
        model = build.build(config, task, rngs=nnx.Rngs(0))
        return [layer.cell.input_weights[...] for layer in model.layers]

    alone, named = first_input_weights(None), first_input_weights(1.0)
    for weights, expected in zip(alone, named, strict=True):  # 3 / sqrt(100)
        np.testing.assert_allclose(weights, 0.3 * expected, rtol=1e-6)


def test_negative_fraction_is_a_fraction():
    with pytest.raises(ValueError, match=r"^config\.model\.negative_fraction .*1\.5"):
        check("scornn", negative_fraction=1.5)
    check("spectral", negative_fraction=1.5)  # which does not read it


INITS = {
    **dict.fromkeys(
        ("spectral", "ornn", "exprnn", "scornn"),
        ("random", "identity", "henaff", "cayley"),
    ),
    **dict.fromkeys(("irnn", "spectral_lstm", "spectral_gru"), ("random", "identity")),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_inits_fit_their_models(name):
    reads = "model.init" in registry.MODELS[name].reads
    assert reads == (name in INITS)
    for init in ("random", "identity", "henaff", "cayley"):
        if not reads or init in INITS[name]:
            check(name, init=init, reflectors=(128, 128))
        else:
            with pytest.raises(ValueError, match=f"config.model.init .*got '{init}'"):
                check(name, init=init)


@pytest.mark.parametrize("reflectors", [127, (128, 127)])
def test_block_rotations_need_all_reflectors(reflectors):
    with pytest.raises(ValueError, match=r"^config\.model\.reflectors .*'cayley'.*127"):
        check("ornn", reflectors=reflectors, init="cayley")
    check("scornn", reflectors=reflectors, init="cayley")


def test_a_pair_of_reflectors_with_the_identity_names_both_fields():
    message = r"config\.model\.reflectors .* init 'identity', got 8 and 16"
    with pytest.raises(ValueError, match=message):
        check(reflectors=(8, 16), init="identity")


@pytest.mark.parametrize("name", registry.MODELS)
def test_fields_that_a_model_does_not_read_do_not_reach_it(name):
    """What is unread may hold anything: no check and no layer looks at it."""
    reads = registry.MODELS[name].fields()
    config = changed_addition(model__layers=2, model__init="random").model
    config.name = name
    config.unlock()
    for field in set(config) - reads - {"name"}:
        del config[field]
    build.check(config)


@pytest.mark.slow
def test_a_model_needs_a_function_and_a_line(monkeypatch):
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))

    def narrow(config, features, *, rngs):
        hidden = config.hidden
        return svdrnn.DenseRNN(features, hidden, init="identity", rngs=rngs)

    registry.register("narrow", narrow, ("hidden", "layers", "dropout"))
    config = changed_addition(model__name="narrow", model__hidden=3)
    build.check(config.model)
    task = Addition(length=4, seed=0, batch_size=2)
    model = build.build(config.model, task, rngs=nnx.Rngs(0))
    outputs, _ = model(task.train_batch(0)["inputs"])
    assert outputs.shape == (2, 1)
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    assert sum(sizes) == 3 * 3 + 3 * 2 + 3 + 3 + 1
    monkeypatch.setattr(models, "MODELS", registry.MODELS)
    assert "model.radius" in identity.unread(identity.to_dict(config))


@pytest.mark.parametrize(
    "field, value",
    [("residual", True), ("bidirectional", True), ("layers", 2), ("pool", "mean")],
)
def test_what_a_model_does_not_read_does_not_act_around_it(monkeypatch, field, value):
    monkeypatch.setattr(registry, "MODELS", dict(registry.MODELS))

    def narrow(config, features, *, rngs):
        return svdrnn.DenseRNN(features, config.hidden, rngs=rngs)

    task = Addition(length=4, seed=0, batch_size=2)
    config = changed_addition(model__name="narrow").model
    config.reflectors = (4, 8)  # of another type than the default
    inputs = task.train_batch(0)["inputs"]
    outputs = {}
    for reads in (("hidden",), ("hidden", field)):
        registry.register("narrow", narrow, reads)
        for each in (config[field], value):
            config[field] = each
            model = build.build(config, task, rngs=nnx.Rngs(0))
            outputs[len(reads), each] = oracles.jit(model)(inputs)[0]
        config[field] = common.FIELDS[f"model.{field}"].default
    before, after = outputs[1, config[field]], outputs[1, value]
    np.testing.assert_array_equal(before, after)
    assert not np.array_equal(outputs[2, value], before)
