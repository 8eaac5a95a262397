"""What griffe's inspection says too much, for mkdocstrings."""

import griffe


class Values(griffe.Extension):
    """Constants lose the docstring of their type, as that of `tuple`."""

    def on_attribute_instance(self, *, node, attr, **kwargs):
        """Leaves properties and all that has a text of its own."""
        del kwargs
        value = getattr(node, "obj", None)
        if attr.docstring and attr.docstring.value == (type(value).__doc__ or ""):
            attr.docstring = None
        elif not isinstance(value, property) and isinstance(value, (str, tuple)):
            attr.docstring = None
