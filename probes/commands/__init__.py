"""The commands of `tiller probe`, one module per family; `probes/__main__.py` puts them together."""
