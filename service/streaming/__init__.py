"""An answer while it is being written.

stream.py   server-sent events: when they begin, how they end
feed.py     from the engine's thread to the event loop
chunks.py   their shapes on the three routes
"""
