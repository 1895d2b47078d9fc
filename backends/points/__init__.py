"""Collocation points: how they are drawn, and how they follow the residual."""
