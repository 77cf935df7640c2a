"""From a suite to a run folder full of records."""
