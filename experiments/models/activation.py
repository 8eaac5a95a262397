"""The activation that a config asks for."""

from typing import Any


def arguments(config: Any) -> dict[str, Any]:
    """`activation` and `leak` as the library takes them: no leak where none is read."""
    leaky = config.activation == "leaky_relu"
    return {
        "activation": config.activation,
        "leak": config.leak if leaky else None,
    }
