"""What chooses the direction of a probe: one module per method, `table.py` lists them by name."""
