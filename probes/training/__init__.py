"""One training run, from labelled texts to a saved artefact."""
