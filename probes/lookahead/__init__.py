"""Look-ahead probes: a value function on the model's own states, labelled by what it went on to write."""
