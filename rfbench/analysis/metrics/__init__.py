"""One file per family of metrics, from scored records to rows."""
