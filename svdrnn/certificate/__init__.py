"""A certificate of generalization, which nothing else in the library needs.

`import svdrnn` does not load it; `from svdrnn import certificate` does. `certify`
bounds the error of a trained model from its training examples. `bound` does so from a
class of classifiers, their norms and their ramp loss. `certify_rounded` bounds the
error of any model whose parameters it has rounded to few bits. The modules
`generalization` and `rounding` have the mathematics, in numpy, and `certification`
reads from a model what that needs.
"""

from svdrnn.certificate import certification, generalization, rounding
from svdrnn.certificate.certification import certify, certify_rounded
from svdrnn.certificate.generalization import Certificate, Classifiers, Norms, bound
from svdrnn.certificate.rounding import RoundedCertificate

__all__ = [
    "Certificate",
    "Classifiers",
    "Norms",
    "RoundedCertificate",
    "bound",
    "certification",
    "certify",
    "certify_rounded",
    "generalization",
    "rounding",
]
