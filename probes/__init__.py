"""Offline: labelled texts -> activations -> Probe. Needs the extra `probes`; the service never imports this package.

    reading.py, corpus.py, splits.py        labelled texts, checked, hashed, divided without leaks
    activations.py, shards.py               residuals at the point steering writes to, resumable on disk
    fit.py, calibration.py, metrics.py      logistic regression, Platt scaling, AUROC / Brier / ECE
    fitting/                                what a layer carries for metrics and controllers; `table.py` lists it
    layer.py, selection.py, baseline.py     one layer measured; which layers; what words alone give away
    recipe.py, train.py, card.py, plot.py   the whole run and the page it leaves
    pretrain.py, __main__.py, console.py    `make probes`, `tiller probe`, progress on a terminal

Import from the modules; nothing is loaded here, so that `tiller probe verify` starts fast.
"""
