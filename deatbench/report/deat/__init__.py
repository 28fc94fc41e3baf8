"""DEAT's claim beside what was measured."""
