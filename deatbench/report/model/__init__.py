"""The page of one model, and its card in the zoo."""
