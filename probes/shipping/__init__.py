"""The probes that ship with the embedded model: their texts, their screens, their tables."""
