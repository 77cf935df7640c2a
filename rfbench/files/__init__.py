"""Files of any kind: written whole, cached, parsed with every mistake named."""
