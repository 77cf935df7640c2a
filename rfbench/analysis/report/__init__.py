"""What people read about runs: comparisons as text, whole runs as one HTML page."""
