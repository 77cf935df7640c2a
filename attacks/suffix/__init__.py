"""The engine of the ``gcg`` attacks: small functions with stated shapes, and a thin loop around them.

Greedy Coordinate Gradient, Zou et al. 2023 (arXiv 2307.15043). ``layout`` places a suffix inside an encoded chat,
``objectives`` turn logits into losses, ``evaluator`` computes losses and gradients, ``candidates`` draws
replacements, ``ranking`` decides which of them to evaluate exactly, ``search`` is the loop, ``state`` its state, and
``attempts`` turns that into attempts. ``draft`` and ``partial_draft`` are cheaper stand-ins for a model. ``nano`` puts
another loop in its place; ``continuous`` and ``blackbox`` serve attacks on vectors and through log-probabilities.

Shapes, here and in every tensor docstring of this package: ``b`` rows of a batch, ``c`` candidates, ``d`` hidden
size, ``k`` best replacements of a position, ``l`` tokens of a sequence, ``s`` suffix tokens, ``t`` target tokens,
``v`` vocabulary (rows of the input embedding).
"""

OWN_DRAFTS = ("glimpse", "int8")
"""Drafts that are made of the model itself; any other name is that of a model."""
