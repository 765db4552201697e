"""Nightshift's endpoint beside its peers: the same model, machine, client and run."""
