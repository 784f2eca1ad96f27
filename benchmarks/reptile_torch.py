"""Reptile in PyTorch as most write it: a loop over tasks and mini-batches."""

import torch
import torch.nn.functional as F
from torch_peer import TorchPeer, normalise


class Peer(TorchPeer):
    """Parameters that one persistent Adam moves, and that are set back."""

    def __init__(self, workload, dtype, variant):
        super().__init__(workload, dtype, variant)
        self.batches = torch.tensor(workload.batches())
        self.inner = torch.optim.Adam(
            self.theta, workload.inner_lr, betas=(0.0, 0.999)
        )

    def step(self, iterations):
        """Does meta-iterations, and returns when they are done."""
        for _ in range(iterations):
            gradient = self.gradient()
            with torch.no_grad():
                for w, g in zip(self.theta, gradient, strict=True):
                    w -= self.workload.meta_step * g

    def gradient(self):
        """Returns the meta-gradient as a list of tensors."""
        start = [w.detach().clone() for w in self.theta]
        total = [torch.zeros_like(w) for w in start]
        support = zip(self.batch.support_x, self.batch.support_y, strict=True)
        for (x, y), batches in zip(support, self.batches, strict=True):
            for batch in batches:
                self.inner.zero_grad()
                self.inner_loss(x[batch], y[batch]).backward()
                self.inner.step()
            with torch.no_grad():
                for w, t, s in zip(self.theta, total, start, strict=True):
                    t += w
                    w.copy_(s)
        tasks = self.workload.tasks
        return [s - t / tasks for s, t in zip(start, total, strict=True)]

    def inner_loss(self, x, y):
        """Returns the loss of a mini-batch."""
        *blocks, kernel, bias = self.theta
        for w, b, gamma, beta in zip(
            *(blocks[i::4] for i in range(4)), strict=True
        ):
            x = self.conv(x, w, self.workload.network.stride)
            x = normalise(x + b[:, None, None])
            x = F.relu(x * gamma[:, None, None] + beta[:, None, None])
        x = x.permute(0, 2, 3, 1).flatten(1)
        return F.cross_entropy(x @ kernel + bias, y.long(), reduction="sum")
