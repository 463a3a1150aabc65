"""What a server holds besides its model: probes and policies, changed while traffic runs.

shelf.py      uploaded probes on the disk
policies.py   named `steering` fields in the database
reading.py    both and the shipped probes as one set, at start and at a reload
keeper.py     whoever changes them: one change at a time, disk first, then the whole set swapped
"""
