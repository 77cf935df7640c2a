"""An attack (``attack.py``) and two datasets (``dataset.py``) for rfbench, in a package of their own."""
