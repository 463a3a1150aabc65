"""One evaluation from its spec to its samples: prompts x arms x samples, written, kept, measured.

    spec -> prompts, arms -> rows -> parts of samples -> parts of scores -> samples.parquet, provenance.json

Everything is kept part by part, whole or absent, so that a run killed anywhere goes on with the same rows.
"""
