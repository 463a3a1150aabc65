"""What a layer carries beside its read-out: one file per fitted group of `steering.fitted`."""
