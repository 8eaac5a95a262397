"""Penn Treebank: streams, the state carried along, and what models make of tokens."""

import itertools
import json
import math
import shutil
from types import SimpleNamespace

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import strategies as st

import svdrnn
from configs import addition, ptb_char, ptb_word
from experiments import tasks
from experiments.data import files, ptb
from experiments.models import build as models
from experiments.models import recurrent, registry
from experiments.tasks import penn_treebank
from experiments.tasks.penn_treebank import PennTreebankCharacters, PennTreebankWords
from experiments.training import (
    checkpoints,
    evaluation,
    fields,
    loop,
    optimizers,
    steps,
)
from tests import oracles

WORDS = ("the", ptb.EOS, "a", "cat", "sat", "on")
BEFORE_FIRST = 1  # the index of <eos>


def corpus(train=423, valid=57, test=43, vocabulary=WORDS):
    """Random tokens: so many in each part."""
    draw = np.random.default_rng(5)
    parts = {"train": train, "valid": valid, "test": test}
    tokens = {
        part: draw.integers(0, len(vocabulary), count, dtype=np.int32)
        for part, count in parts.items()
    }
    return SimpleNamespace(**tokens, vocabulary=vocabulary)


def words(data=None, *, window=5, batch_size=4):
    return PennTreebankWords(data or corpus(), window=window, batch_size=batch_size)


def characters(vocabulary=("e", "\n", "t", "a"), **arguments):
    arguments = {"window": 5, "batch_size": 4} | arguments
    return PennTreebankCharacters(corpus(vocabulary=vocabulary), **arguments)


def tiny_config(**model):
    """A config for the tokens of `corpus`."""
    config = ptb_word.get_config()
    config.task.window = 5
    config.model.hidden = 8
    config.model.reflectors = 3
    config.model.dropout = 0.0
    config.model.tied = False
    config.model.update(model)
    config.train.epochs = None
    config.train.steps = 40
    config.train.batch_size = 4
    config.train.schedule = "plateau"
    return config


def built(task=None, **model):
    """(model, graph, parameters) for a task, words by default."""
    config = tiny_config(**model).model
    model = models.build(config, task or words(), rngs=nnx.Rngs(3))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    return model, graph, nnx.to_pure_dict(params)


def assert_trees_close(found, expected, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected
    )


# ---- Streams.


def read(batches):
    """Inputs, targets and weights (streams, time of all windows)."""
    batches = list(batches)
    assert [bool(batch["reset"]) for batch in batches] == [
        index == 0 for index in range(len(batches))
    ]
    for batch in batches:
        assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
        assert batch["weights"].dtype == np.float32
        assert isinstance(batch["reset"], np.bool_)
        assert batch["weights"].sum() > 0
    return [
        np.concatenate([batch[name] for batch in batches], axis=1)
        for name in ("inputs", "targets", "weights")
    ]


def check_streams(batches, tokens, streams):
    """Every token once, in order, after the one before it."""
    inputs, targets, weights = read(batches)
    assert inputs.shape == targets.shape == weights.shape
    assert len(inputs) == streams
    counted = weights == 1
    assert np.array_equal(counted, weights != 0)
    before = np.concatenate([[BEFORE_FIRST], tokens[:-1]])
    np.testing.assert_array_equal(targets[counted], tokens)
    np.testing.assert_array_equal(inputs[counted], before)
    length = -(-len(tokens) // streams)
    for number, row in enumerate(counted):  # first the tokens, then the padding
        count = min(max(len(tokens) - number * length, 0), length)
        assert row[:count].all() and not row[count:].any()


@pytest.mark.slow
@hypothesis.given(
    count=st.integers(1, 120), streams=st.integers(1, 9), window=st.integers(1, 40)
)
@hypothesis.example(count=5, streams=4, window=2)  # leaves the last stream empty
@hypothesis.example(count=60, streams=4, window=5)  # divides
@hypothesis.example(count=61, streams=4, window=5)
def test_every_token_once(count, streams, window):
    hypothesis.assume(streams <= count)
    data = corpus(train=count, valid=count, test=1)
    task = words(data, window=window, batch_size=streams)
    steps = task.steps_per_epoch(streams)
    assert steps == math.ceil(math.ceil(count / streams) / window)
    check_streams(map(task.train_batch, range(steps)), data.train, streams)
    check_streams(task.eval_batches("valid"), data.valid, penn_treebank.EVAL_STREAMS)
    check_streams(task.eval_batches("test"), data.test, penn_treebank.EVAL_STREAMS)


def test_a_batch_by_hand():
    data = corpus()
    data.train = np.array([2, 3, 4, 5, 0, 1, 2], np.int32)
    task = words(data, window=2, batch_size=2)  # streams 2 3 4 5 and 0 1 2
    first, second = task.train_batch(0), task.train_batch(1)
    np.testing.assert_array_equal(first["inputs"], [[1, 2], [5, 0]])
    np.testing.assert_array_equal(first["targets"], [[2, 3], [0, 1]])
    np.testing.assert_array_equal(second["inputs"][:, 0], [3, 1])
    np.testing.assert_array_equal(second["targets"][:, 0], [4, 2])
    np.testing.assert_array_equal(second["weights"], [[1, 1], [1, 0]])
    assert first["reset"] and not second["reset"]


def test_epochs_repeat_and_batches_depend_on_the_step_alone():
    task, again = words(), words()
    steps = task.steps_per_epoch(4)
    assert steps == 22
    for step in (2 * steps, 1, steps + 1, 0):  # asked for out of order
        found, expected = task.train_batch(step), again.train_batch(step % steps)
        assert found.keys() == expected.keys()
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name])
    assert task.train_batch(steps)["reset"]
    assert not task.train_batch(steps + 1)["reset"]


# ---- Losses.


def over_split(task, split, outputs_of):
    totals = {"loss": 0.0, "count": 0.0}
    for batch in task.eval_batches(split):
        for name, value in task.sums(outputs_of(batch), batch).items():
            totals[name] += float(value)
    return task.metrics(totals), totals["count"]


@pytest.mark.slow
def test_perplexity_and_bits_by_hand():
    # The targets get probability 1/2 and 1/8; a third one is padding.
    probabilities = np.array([[[1, 2, 1], [1, 1, 6], [1, 0, 0]]]) + 1e-30
    probabilities = probabilities / probabilities.sum(-1, keepdims=True)
    batch = {
        "inputs": np.zeros((1, 3), np.int32),
        "targets": np.array([[1, 0, 2]], np.int32),
        "weights": np.array([[1, 1, 0]], np.float32),
    }
    outputs = jnp.asarray(np.log(probabilities) + 7.0, jnp.float32)
    sums = words().sums(outputs, batch)
    assert float(sums["count"]) == 2
    assert float(sums["loss"]) == pytest.approx(math.log(16), rel=1e-6)
    assert words().metrics(sums) == pytest.approx(
        {"loss": math.log(4), "perplexity": 4}, rel=1e-6
    )
    assert characters().metrics(sums) == pytest.approx(
        {"loss": math.log(4), "bits_per_character": 2}, rel=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("make,expected", [(words, 6), (characters, math.log2(4))])
def test_guessing_uniformly_is_the_baseline(make, expected):
    task = make()
    for split, count in (("valid", 57), ("test", 43)):
        metrics, counted = over_split(
            task, split, lambda b: jnp.zeros((*b["targets"].shape, task.out_features))
        )
        assert counted == count
        assert metrics["loss"] == pytest.approx(task.baseline, rel=1e-6)
        assert metrics[task.primary] == pytest.approx(expected, rel=1e-6)


def test_a_loss_too_large_for_its_perplexity():
    metrics = words().metrics({"loss": np.float64(1000), "count": np.float64(1)})
    assert metrics == {"loss": 1000.0, "perplexity": math.inf}


# ---- The state.


@pytest.mark.parametrize(
    "name",
    ["spectral"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in registry.names(True)
        if name != "spectral"
    ],
)
def test_two_windows_equal_one(name):
    """Outputs and last state; and a gradient for every parameter."""
    layers = 2 if name == "rnn" else 1
    _, graph, params = built(name=name, layers=layers, embedding=5)
    tokens = words().train_batch(0)["inputs"]
    tokens = np.concatenate([tokens, words().train_batch(1)["inputs"]], axis=1)

    @oracles.jit
    def run(params):
        def long(params):
            outputs, carry = nnx.merge(graph, params)(tokens)
            return jnp.sum(jnp.square(outputs)), (outputs, carry)

        grads, (outputs, carry) = jax.grad(long, has_aux=True)(params)
        model = nnx.merge(graph, params)
        first, between = model(tokens[:, :3], model.initialize_carry(4))
        second, last = model(tokens[:, 3:], between)
        pieces = jnp.concatenate([first, second], axis=1)
        return (pieces, last), (outputs, carry), grads

    found, expected, grads = run(params)
    assert found[0].shape == (4, 10, 6) and len(found[1]) == layers
    assert_trees_close(found, expected, rtol=1e-4, atol=1e-6)
    for path, gradient in jax.tree_util.tree_leaves_with_path(grads):
        norm = np.linalg.norm(gradient)
        assert np.isfinite(norm) and norm > 0, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_evaluation_carries_the_state_through_the_split():
    metrics = {}
    for window in (2, 30):  # 30: a stream of six words in one piece
        task = words(window=window)
        model, graph, params = built(task, name="rnn")
        no_optimizer = SimpleNamespace(init=lambda params: None)
        state = steps.initial_state(params, {}, no_optimizer, model.initialize_carry(4))
        step = steps.make_eval_step(graph, task)
        metrics[window] = evaluation.evaluate(step, task, state, "valid")
    assert metrics[2] == pytest.approx(metrics[30], rel=1e-6)
    assert 1 < metrics[2]["perplexity"] < 100


@pytest.mark.slow
def test_training_carries_the_state_and_resets_it():
    task = words()
    config = tiny_config()
    model, graph, _ = built(task, name="rnn")
    optimizer, _ = optimizers.build(config.train, steps=40, steps_per_epoch=22)
    step = steps.make_train_step(graph, task, lambda numbers: optimizer)
    settings = steps.Settings(jax.random.key_data(jax.random.key(0)))

    def fresh(fill):
        carry = jax.tree.map(lambda h: h + fill, model.initialize_carry(4))
        _, _, params = built(task, name="rnn")  # anew: a step takes the arrays
        return steps.initial_state(params, {}, optimizer, carry)

    @oracles.jit
    def by_hand(params, batch, carry):
        outputs, carry = nnx.merge(graph, params)(batch["inputs"], carry)
        return task.sums(outputs, batch)["loss"], carry

    zeros = model.initialize_carry(4)
    loss, carry = by_hand(fresh(0.0).params, task.train_batch(0), zeros)
    for fill in (0.0, 0.5):  # whatever the state was, an epoch starts from zeros
        state, (sums, _) = step(fresh(fill), settings, task.train_batch(0))
        np.testing.assert_allclose(sums["loss"], loss, rtol=1e-5)
        assert_trees_close(state.carry, carry, rtol=1e-4, atol=1e-6)
    loss, carry = by_hand(state.params, task.train_batch(1), state.carry)
    state, (sums, _) = step(state, settings, task.train_batch(1))
    np.testing.assert_allclose(sums["loss"], loss, rtol=1e-5)
    assert_trees_close(state.carry, carry, rtol=1e-4, atol=1e-6)
    assert float(jnp.abs(state.carry[0]).max()) > 0.01


@pytest.mark.slow
def test_a_checkpoint_holds_every_kind_of_carry(tmp_path):
    saved = checkpoints.Checkpoints(tmp_path / "checkpoints")
    carries = {
        name: jax.tree.map(
            lambda h: h + 0.25, built(name=name, layers=2)[0].initialize_carry(3)
        )
        for name in ("rnn", "lstm", "gru")
    }
    state = steps.initial_state(carries, {}, optax.identity(), carries)
    state = state._replace(step=jnp.int32(1))
    saved.save(1, state, carries, {})
    zeros = jax.tree.map(jnp.zeros_like, (state, carries))
    found, best_params, _ = saved.restore(*zeros)
    saved.close()
    assert jax.tree.structure(found.carry) == jax.tree.structure(carries)
    jax.tree.map(np.testing.assert_array_equal, found.carry, carries)
    jax.tree.map(np.testing.assert_array_equal, best_params, carries)


# ---- Embeddings, dropout, layers.


def test_tied_embeddings():
    tokens = words().train_batch(0)["inputs"]
    tied, _, params = built(tied=True, name="rnn")
    free, _, _ = built(name="rnn")
    assert models.count_params(free) - models.count_params(tied) == 6 * 8
    tied.readout.bias[...] = jnp.arange(6.0)
    states = tied.layers[0](tied.embedding(tokens))
    table = np.asarray(tied.embedding.embedding[...])
    expected = np.asarray(states) @ table.T + np.arange(6.0)
    np.testing.assert_allclose(tied(tokens)[0], expected, rtol=1e-4, atol=1e-5)
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    assert shapes.count((6, 8)) == 1


def test_layers_and_embedding_sizes():
    model, _, _ = built(layers=3, embedding=5, radius=0.5)
    assert model.embedding.embedding.shape == (6, 5)
    assert [layer.cell.in_features for layer in model.layers] == [5, 8, 8]
    assert [h.shape for h in model.initialize_carry(2)] == [(2, 8)] * 3
    assert built()[0].layers[0].cell.in_features == 8  # None: as many as hidden
    for layer, raw in zip(model.layers, (0.0, 3.0, -1.0), strict=True):
        layer.cell.weight.sigma_raw[...] = jnp.full(8, raw)
    margin = float(model.diagnostics()["spectral_margin"])  # the largest of all
    assert margin == pytest.approx(1 / (1 + math.exp(-3)) - 0.5, rel=1e-4)


def test_dropout_needs_a_key():
    tokens = words().train_batch(0)["inputs"]
    plain, dropped = built(name="rnn")[0], built(name="rnn", dropout=0.5)[0]

    @oracles.jit
    def run(keys):
        without_key = (plain(tokens), dropped(tokens))
        return (
            without_key,
            plain(tokens, keys=keys[0])[0],
            [dropped(tokens, keys=keys[number])[0] for number in (0, 0, 1)],
        )

    keys = jax.random.split(jax.random.key(1), (2, len(tokens)))
    (expected, found), off, on = run(keys)
    assert_trees_close(found, expected)
    np.testing.assert_array_equal(off, expected[0])
    np.testing.assert_array_equal(on[0], on[1])
    assert not np.allclose(on[0], on[2]) and not np.allclose(on[0], expected[0])


@pytest.mark.slow
def test_dropout_is_on_embeddings_and_on_outputs_but_not_on_the_carry():
    # Every unit sums what it sees of an embedding of ones, four in number.
    layer = svdrnn.DenseRNN(
        4, 8, init="identity", activation="identity", rngs=nnx.Rngs(0)
    )
    layer.cell.input_weights[...] = jnp.ones((8, 4))
    model = recurrent.SequenceModel(
        [layer],
        lambda states: states,
        embedding=lambda tokens: jnp.ones((*tokens.shape, 4)),
        dropout=0.75,
        last_only=False,
    )
    run = oracles.jit(lambda tokens, keys: model(tokens, keys=keys))
    keys = jax.random.split(jax.random.key(4), 50)
    outputs, carry = run(np.zeros((50, 6), np.int32), keys)
    outputs, last = np.asarray(outputs), np.asarray(carry[0])
    # 24 embedded numbers, each 0 or 1 / (1 - 0.75) = 4, seen by all units alike.
    assert np.array_equal(last, np.repeat(last[:, :1], 8, axis=1))
    assert set(np.unique(last)) <= set(4.0 * np.arange(25))
    assert last[:, 0].mean() == pytest.approx(24, abs=6)
    assert last[:, 0].std() > 0
    kept = outputs[:, -1] != 0
    np.testing.assert_array_equal(outputs[:, -1][kept], 4 * last[kept])
    assert kept[last[:, 0] > 0].mean() == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize("block", [False, True])
def test_tied_dropout_has_one_mask_for_all_steps(block):
    layer = svdrnn.DenseRNN(
        4, 4, init="identity", activation="identity", rngs=nnx.Rngs(0)
    )
    layer.cell.input_weights[...] = jnp.eye(4)
    layers = [recurrent.Block(layer, 4, 4, nnx.Rngs(1)) if block else layer]
    model = recurrent.SequenceModel(
        layers,
        lambda states: states,
        embedding=lambda tokens: 1.0 + tokens[..., None] + jnp.arange(4.0),
        dropout=0.5,
        dropout_tied=True,
        last_only=False,
    )
    run = oracles.jit(lambda tokens, keys: model(tokens, keys=keys)[0])
    keys = jax.random.split(jax.random.key(4), 50)
    tokens = np.random.default_rng(0).integers(0, 9, (50, 6))
    dropped = np.asarray(run(tokens, keys)) == 0  # (batch, time, features)
    np.testing.assert_array_equal(dropped, np.repeat(dropped[:, :1], 6, axis=1))
    # In a block both masks have to fall on a feature, in a layer one is enough.
    assert dropped[:, 0].mean() == pytest.approx(0.25 if block else 0.75, abs=0.1)
    assert len(np.unique(dropped[:, 0], axis=0)) > 5  # examples have their own


# ---- A whole run.


def run_config():
    """Tied, with dropout, and at a rate that makes the validation loss jump."""
    config = tiny_config(name="rnn", tied=True, dropout=0.2)
    config.train.update(
        {
            "learning_rate": 0.3,
            "plateau_patience": 1,
            "log_every": 1,
            "eval_every": 5,
            "checkpoint_every": 15,  # in mid-epoch: an epoch has 22 steps
        }
    )
    return config


def train_lines(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    names = ("loss", "perplexity", "grad_norm", "learning_rate")
    return {
        line["step"]: [line[name] for name in names]
        for line in lines
        if line["split"] == "train"
    }


@pytest.mark.slow
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ptb, "load_words", lambda *places: corpus())
    whole = loop.train(run_config(), tmp_path / "whole")
    assert whole["task"] == "ptb_word"
    assert whole["baseline"] == pytest.approx(math.log(6))
    for split in ("valid", "test"):
        metrics = whole["metrics"][split]
        assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    by_step = train_lines(tmp_path / "whole")
    rates = [by_step[step][-1] for step in range(1, 41)]
    assert rates[0] == pytest.approx(0.3)
    assert rates[-1] < 0.3 / 3  # halved twice at the least
    assert rates[29] < 0.29  # once before the checkpoint that is taken up
    for old, new in itertools.pairwise(rates):
        assert new in (old, pytest.approx(old / 2))
    changes = [step for step in range(1, 40) if rates[step] != rates[step - 1]]
    assert all(step % 5 == 0 for step in changes)  # right after an evaluation

    # What a run that was killed after step 35 has written.
    stopped = shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(stopped / "checkpoints" / "40")
    (stopped / "result.json").unlink()
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    written = [line for line in lines if json.loads(line)["step"] <= 35]
    (stopped / "metrics.jsonl").write_text("".join(written))
    assert max(train_lines(stopped)) == 35

    result = loop.train(run_config(), stopped)
    different = {name for name in whole if result[name] != whole[name]}
    assert different <= {"wall_seconds"}
    events = (stopped / "metrics.jsonl").read_text()
    assert '"step": 30, "split": "event", "event": "resumed_from"' in events
    assert train_lines(stopped) == by_step


# ---- What is refused.


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"window": 0}, "config.task.window must be an integer .*1, got 0"),
        ({"window": 2.5}, "config.task.window .* got 2.5"),
        ({"window": True}, "config.task.window .* got True"),
        ({"batch_size": 0}, "config.train.batch_size .* got 0"),
        ({"batch_size": 424}, "at most the 423 training tokens, got 424"),
        ({"data": corpus(valid=0)}, "valid has no tokens"),
        ({"data": corpus(vocabulary=("the", "a"))}, "must have the token '<eos>'"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        words(**changes)


@pytest.mark.parametrize(
    "tokens,message",
    [
        (np.array([0, 6]), r"train tokens must lie in 0 \.\.\. 5, got 0 \.\.\. 6"),
        (np.array([-1, 2]), r"got -1 \.\.\. 2"),
        (np.array([0.0, 1.0]), r"train must be integers .* float64 \(2,\)"),
        (np.array([[0, 1]]), r"train must be integers .* int64 \(1, 2\)"),
    ],
)
def test_bad_tokens(tokens, message):
    data = corpus()
    data.train = tokens
    with pytest.raises(ValueError, match=message):
        words(data, batch_size=1)


def test_unknown_split_and_variant():
    with pytest.raises(ValueError, match="split must be 'valid' or 'test'"):
        next(words().eval_batches("train"))
    with pytest.raises(ValueError, match="_lstm_long, :smoke or nothing"):
        ptb_word.get_config("quick")


def test_a_bad_window_is_named_before_data_are_read(monkeypatch):
    monkeypatch.setattr(ptb, "load_words", lambda *_: pytest.fail("read"))
    config = tiny_config()
    config.task.window = -3
    with pytest.raises(ValueError, match="config.task.window .* got -3"):
        tasks.build(config)


def test_tied_embeddings_have_the_size_of_the_states():
    fields.check(tiny_config(tied=True, embedding=8))
    fields.check(tiny_config(tied=False, embedding=5))
    message = r"config.model.embedding must be None or config.model.hidden, 8, .* got 5"
    with pytest.raises(ValueError, match=message):
        fields.check(tiny_config(tied=True, embedding=5))


@pytest.mark.parametrize("field,value", [("tied", True), ("embedding", 8)])
def test_embeddings_are_for_tokens(field, value):
    config = addition.get_config()
    config.model[field] = value
    with pytest.raises(ValueError, match=f"config.model.{field} .*addition.* {value}"):
        models.build(config.model, tasks.build(config), rngs=nnx.Rngs(0))


# ---- The real text.


@pytest.mark.slow
@pytest.mark.parametrize(
    "make,counts,symbols",
    [
        (ptb_word, (929_589, 73_760, 82_430), 10_000),
        (ptb_char, (5_059_550, 396_412, 446_184), 50),
    ],
    ids=["words", "characters"],
)
def test_real_counts(make, counts, symbols):
    root = files.data_root(None)
    if root is None or files.find(root / "ptb", ptb.NAMES[0]) is None:
        pytest.skip("needs the real PTB files: set SVDRNN_DATA")
    config = make.get_config()
    task = tasks.build(config)
    assert task.vocabulary == task.out_features == symbols
    steps = task.steps_per_epoch(config.train.batch_size)
    epoch = map(task.train_batch, range(steps))
    found = [
        sum(int(batch["weights"].sum()) for batch in batches)
        for batches in (epoch, task.eval_batches("valid"), task.eval_batches("test"))
    ]
    assert tuple(found) == counts
