"""The engine: the loop around a method's step, the loop around attacks, and everything that keeps both honest."""
