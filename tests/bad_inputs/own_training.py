"""Optimizers and gradient functions of a user, for the tests of mistakes in experiment files."""

number = 3


def make(learning_rate, decay=0.9):
    return None


def process(ops, gradients):
    return gradients
