"""An attack (``attack.py``) and a dataset (``neighbours.jsonl``) for rfbench, in a package of their own."""
