"""What makes the documentation: no part of the product, and not installed with it."""
