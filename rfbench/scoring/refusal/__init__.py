"""The refusal reader: rules that say whether a completion declines its request."""
