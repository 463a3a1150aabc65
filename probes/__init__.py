"""Offline: labelled texts -> activations -> Probe. Needs the extra `probes`; the service never imports this package.

    texts/        labelled texts, checked, hashed, divided without leaks
    harvest/      residuals at the point steering writes to, hashed and resumable on disk, by one process or several
    methods/      logistic regression, difference of means, linear discriminant, sparse read-outs
    measure/      AUROC, Brier and ECE with intervals, Platt scaling, baselines, minimal pairs
    fitting/      what a layer carries for metrics and controllers; `table.py` lists it
    training/     the whole run from texts to artefact
    screen/       which layers change what the model writes, beside a placebo
    lookahead/    probes labelled by what the model went on to write
    card/         the page beside every artefact
    exchange/     other tools' files, differences, the hub
    shipping/     the probes that come with the embedded model; `pretrain.py` is its command
    commands/     `tiller probe`; `__main__.py` puts it together, `console.py` draws progress

Import from the modules; nothing is loaded here, so that `tiller probe verify` starts fast.
"""
