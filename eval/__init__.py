"""eval: prompts -> continuations -> scores -> report. Offline; imports `steering` and never its siblings."""
