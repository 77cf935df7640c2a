"""The reference backend: transformers models in this process."""
