"""What a constrained kernel answers as an array does, and what it refuses.

Every operator stands in a class by its name, so that editors and type checkers see it.
"""

from collections.abc import Callable
from typing import Any


def unwritable(what: str) -> str:
    """The error of what would write to a kernel."""
    return (
        f"{what} on a constrained kernel, which is built from its parameters: assign "
        "by svdrnn.set_matrix, or take the constraint away by svdrnn.unconstrain first"
    )


def _reading(name: str) -> Callable[..., Any]:
    """A method that does to the value what the value's own of that name does."""

    def read(self: Any, *others: Any) -> Any:
        others = tuple(o.value if isinstance(o, Operators) else o for o in others)
        return getattr(self.value, name)(*others)

    read.__name__ = name
    return read


def _refusing(name: str) -> Callable[..., Any]:
    """A method that raises a TypeError, because it would write."""

    def refuse(self: Any, *arguments: Any, **named: Any) -> Any:
        raise TypeError(unwritable(f"{name} must not be called"))

    refuse.__name__ = name
    return refuse


class Operators:
    """Arithmetic and comparison on `value`, an array; assignment is refused."""

    value: Any  # an array, built anew

    __add__ = _reading("__add__")
    __sub__ = _reading("__sub__")
    __mul__ = _reading("__mul__")
    __matmul__ = _reading("__matmul__")
    __truediv__ = _reading("__truediv__")
    __floordiv__ = _reading("__floordiv__")
    __mod__ = _reading("__mod__")
    __divmod__ = _reading("__divmod__")
    __pow__ = _reading("__pow__")
    __lshift__ = _reading("__lshift__")
    __rshift__ = _reading("__rshift__")
    __and__ = _reading("__and__")
    __xor__ = _reading("__xor__")
    __or__ = _reading("__or__")

    __radd__ = _reading("__radd__")
    __rsub__ = _reading("__rsub__")
    __rmul__ = _reading("__rmul__")
    __rmatmul__ = _reading("__rmatmul__")
    __rtruediv__ = _reading("__rtruediv__")
    __rfloordiv__ = _reading("__rfloordiv__")
    __rmod__ = _reading("__rmod__")
    __rdivmod__ = _reading("__rdivmod__")
    __rpow__ = _reading("__rpow__")
    __rlshift__ = _reading("__rlshift__")
    __rrshift__ = _reading("__rrshift__")
    __rand__ = _reading("__rand__")
    __rxor__ = _reading("__rxor__")
    __ror__ = _reading("__ror__")

    __eq__ = _reading("__eq__")
    __ne__ = _reading("__ne__")
    __lt__ = _reading("__lt__")
    __le__ = _reading("__le__")
    __gt__ = _reading("__gt__")
    __ge__ = _reading("__ge__")
    __contains__ = _reading("__contains__")

    __neg__ = _reading("__neg__")
    __pos__ = _reading("__pos__")
    __abs__ = _reading("__abs__")
    __invert__ = _reading("__invert__")
    __round__ = _reading("__round__")
    __trunc__ = _reading("__trunc__")
    __floor__ = _reading("__floor__")
    __ceil__ = _reading("__ceil__")

    __complex__ = _reading("__complex__")
    __int__ = _reading("__int__")
    __float__ = _reading("__float__")
    __index__ = _reading("__index__")

    __dlpack__ = _reading("__dlpack__")
    __dlpack_device__ = _reading("__dlpack_device__")
    __array_namespace__ = _reading("__array_namespace__")

    __iadd__ = _refusing("__iadd__")
    __isub__ = _refusing("__isub__")
    __imul__ = _refusing("__imul__")
    __imatmul__ = _refusing("__imatmul__")
    __itruediv__ = _refusing("__itruediv__")
    __ifloordiv__ = _refusing("__ifloordiv__")
    __imod__ = _refusing("__imod__")
    __ipow__ = _refusing("__ipow__")
    __ilshift__ = _refusing("__ilshift__")
    __irshift__ = _refusing("__irshift__")
    __iand__ = _refusing("__iand__")
    __ixor__ = _refusing("__ixor__")
    __ior__ = _refusing("__ior__")

    __setitem__ = _refusing("__setitem__")
    __delitem__ = _refusing("__delitem__")

    # Those of `nnx.Variable`.
    set_value = _refusing("set_value")
    set_raw_value = _refusing("set_raw_value")
    copy_from = _refusing("copy_from")
    update_from_state = _refusing("update_from_state")
    set_metadata = _refusing("set_metadata")
    del_metadata = _refusing("del_metadata")
    add_axis = _refusing("add_axis")
    remove_axis = _refusing("remove_axis")

    # That of an array.
    delete = _refusing("delete")
