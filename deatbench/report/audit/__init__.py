"""Is everything that is committed in order, and what has changed?"""
