"""The polynomial by which the NumPy engine and the compiled functions compute GELU.

GELU(x) = x Φ(x), with Φ the normal distribution function. Its logit, over x, is nearly a polynomial in x².
"""

from __future__ import annotations

#: p, lowest degree first, with Φ(x) = 1 / (1 + exp(-x p(x²))) = (1 + tanh(x p(x²) / 2)) / 2. It was fitted on |x| < 7,
#: and is 7e-8 off in exact arithmetic.
GELU_LOGIT = (
    1.5957684516906738,
    0.07266856729984283,
    -6.625997048104182e-05,
    -0.0001104803232010454,
    7.93821982369991e-06,
    -2.6689286869441275e-07,
    3.6112339785177028e-09,
)
