"""What a solution obeys beside its equation: conserved integrals, symmetries, residuals by scale, variational terms."""
