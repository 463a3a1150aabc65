"""Labelled texts: files, labels, pairs and dataset folders; checked, hashed, divided without leaks."""
