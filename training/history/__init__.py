"""What was tried once, and is no part of the recipe."""
