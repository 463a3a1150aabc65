"""How good is a read-out: figures with intervals, calibration, and baselines that read no hidden states."""
