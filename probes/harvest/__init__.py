"""Residuals at the very point steering writes to, in hashed shards that survive a kill."""
