"""Rules `resid -> resid` beside the slab of `steering.slab`, one file each."""
