"""A run's memory: its folder and files (folder.py), what was measured of its samples (scores.py), its curves (curves.py)."""
