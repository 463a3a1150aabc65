"""For whoever runs the server: what each request was, and how a server ends.

visits.py    one request from its first byte to its last; the outermost middleware
closing.py   from SIGTERM on, no new work
logs.py      one line for each visit, and everybody's lines in one form
metrics.py   what Prometheus is told
tracing.py   one span for each visit, by OpenTelemetry
"""
