"""One module per family of routes; each exports `router`."""
