"""AdamW in float64: Loshchilov and Hutter 2019, algorithm 2."""

import numpy as np


class AdamW:
    """One parameter array and its moments."""

    def __init__(self, value, betas, eps):
        self.value, self.betas, self.eps = np.array(value, np.float64), betas, eps
        self.first, self.second, self.time = np.zeros_like(self.value), np.zeros_like(self.value), 0

    def step(self, gradient, lr, decay):
        """Decay apart from the gradient, then the bias-corrected step."""
        self.time += 1
        one, two = self.betas
        self.first = one * self.first + (1 - one) * gradient
        self.second = two * self.second + (1 - two) * gradient**2
        corrected = self.first / (1 - one**self.time)
        scale = np.sqrt(self.second / (1 - two**self.time)) + self.eps
        self.value = self.value - lr * decay * self.value - lr * corrected / scale
