"""What runs say: statistics, metrics, tables, comparisons, gates and reports. Nothing here loads a model."""
