"""The report of a run: what may be claimed, on what evidence, and where it comes from."""
