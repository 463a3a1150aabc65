"""Who may use a server, how much of it, and what no caller may do to it. SECURITY.md lists the threats.

keys.py         bearer keys in the database: made, rotated, revoked
keyring.py      the same in memory: who sent this key?
ledger.py       tokens of each key and day, reserved before they are spent
rates.py        requests of each key: how often, and how many at a time
guards.py       all of these for one app, kept fresh by one thread
gate.py         middleware: only callers with a key, within its limits
shell.py        middleware: heads, hosts and slow bodies; headers of every reply
connections.py  the same below HTTP: how many connections, how slow
nesting.py      how deep JSON may nest
commands.py     `tiller keys`
"""
