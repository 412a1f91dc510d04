"""The documentation as the tests see it: its code blocks, and the folder in which they run."""
