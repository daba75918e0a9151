"""Systems with one part of the guarantees taken out: the matrix must fail on each of them."""
