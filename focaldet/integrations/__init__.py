"""The operators in other people's detectors."""
