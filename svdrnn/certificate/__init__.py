"""A certificate of generalization, which nothing else in the library needs.

`import svdrnn` does not load it; `from svdrnn import certificate` does. `certify`
bounds the error of a trained model from its training examples. `bound` does so from a
class of classifiers, their norms and their ramp loss. The module `generalization` has
the mathematics, in numpy, and `certification` reads from a model what that needs.
"""

from svdrnn.certificate import certification, generalization
from svdrnn.certificate.certification import certify
from svdrnn.certificate.generalization import Certificate, Classifiers, Norms, bound

__all__ = [
    "Certificate",
    "Classifiers",
    "Norms",
    "bound",
    "certification",
    "certify",
    "generalization",
]
