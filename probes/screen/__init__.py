"""The causal screen: which layers, when steered, change what the model writes, and at what cost.

A probe that reads a concept well at a layer need not steer it there. `run` writes short continuations under every set
of layers, beside a placebo of the same norm; `adopt` puts what was found into the artefact.
"""
