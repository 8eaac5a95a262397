"""Initial values of reflectors and of raw singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdrnn import initializers, spectral


def test_reflector_rows_have_length_about_one_and_no_entries_below_the_trapezoid():
    m, n = 32, 1024
    rows = np.asarray(initializers.reflector_rows(jax.random.key(0), (m, n)))
    assert rows.shape == (m, n) and rows.dtype == np.float32
    np.testing.assert_array_equal(np.tril(rows, -1), 0)
    inside = rows[np.triu(np.ones((m, n), bool))]
    assert np.all(inside != 0)
    # Standard errors: 1/sqrt(2 n) of a length, 0.6 % and 0.4 % of mean and deviation.
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=5 / np.sqrt(2 * n))
    np.testing.assert_allclose(inside.mean() * np.sqrt(n), 0, atol=0.03)
    np.testing.assert_allclose(inside.std() * np.sqrt(n), 1, atol=0.02)


def test_the_first_input_weights_have_the_scale_over_the_root_of_their_inputs():
    m = np.asarray(initializers.input_weights(jax.random.key(0), (400, 100), 0.5))
    np.testing.assert_allclose([m.mean(), m.std()], [0, 0.05], atol=0.001)


def test_raw_singular_values_start_at_the_center():
    raw = initializers.raw_singular_values(jax.random.key(0), 5, center=-0.5)
    np.testing.assert_array_equal(raw, np.zeros(5))


def test_raw_singular_values_are_normal_where_the_center_is_zero():
    raw = np.asarray(initializers.raw_singular_values(jax.random.key(0), 4096, 0.0))
    np.testing.assert_allclose([raw.mean(), raw.std()], [0, 1], atol=0.06)


@pytest.mark.parametrize(("center", "radius"), [(1.0, 0.25), (-1.0, 0.25), (0.0, 2.0)])
def test_raw_from_singular_values_is_the_inverse(x64, center, radius):
    sigma = jnp.asarray(center + radius * np.array([-0.999, -0.5, 0.0, 0.3, 0.999]))
    raw = initializers.raw_from_singular_values(sigma, radius=radius, center=center)
    again = spectral.bounded_singular_values(raw, radius=radius, center=center)
    np.testing.assert_allclose(again, sigma, rtol=1e-13, atol=1e-15)
    # The definition, 2 r (sigmoid(raw) - 1/2) + center.
    definition = 2 * radius * (1 / (1 + np.exp(-np.asarray(raw))) - 0.5) + center
    np.testing.assert_allclose(definition, sigma, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("value", [0.75, 1.25, 1.3, 0.2])
def test_the_interval_is_open(x64, value):
    sigma = jnp.array([1.1, value, 0.9])
    message = f"singular value 1 of the given matrix is {value}; .* 0.75 and 1.25"
    with pytest.raises(ValueError, match=message):
        initializers.raw_from_singular_values(sigma, radius=0.25, center=1.0)


def test_radius_zero_allows_the_center_alone(x64):
    sigma = jnp.array([1.0, 1 + 1e-15])
    raw = initializers.raw_from_singular_values(sigma, radius=0.0, center=1.0)
    np.testing.assert_array_equal(raw, [0, 0])
    with pytest.raises(ValueError, match="singular value 1 .* is 1.001;"):
        initializers.raw_from_singular_values(
            jnp.array([1.0, 1.001]), radius=0.0, center=1.0
        )


def test_a_radius_that_is_no_radius_and_an_unknown_rotation_are_named():
    sigma = jnp.ones(3)
    with pytest.raises(ValueError, match="^radius must be .* got -1"):
        initializers.raw_from_singular_values(sigma, radius=-1.0, center=1.0)
    with pytest.raises(ValueError, match="^center must be .* got nan"):
        initializers.raw_from_singular_values(sigma, radius=1.0, center=float("nan"))
    with pytest.raises(
        ValueError, match="^init must be one of henaff, cayley, got 'x'"
    ):
        initializers.rotation_angles(jax.random.key(0), 4, "x")
