"""PyTorch with `torch.func`: pure functions, all tasks by `vmap`."""

import torch
from torch_peer import TorchPeer


class Peer(TorchPeer):
    """The gradient of a mean over mapped tasks."""

    def gradient(self):
        """Returns the meta-gradient as a list of tensors."""
        return torch.func.grad(self.mean_loss)([w.detach() for w in self.theta])

    def mean_loss(self, theta):
        """Returns the mean of all tasks' query losses."""
        mapped = torch.func.vmap(self.task_loss, (None, 0, 0, 0, 0))
        return mapped(theta, *self.batch).mean()

    def task_loss(self, theta, support_x, support_y, query_x, query_y):
        """Returns the query loss of one task after adaptation to it."""
        workload = self.workload
        fast, slow = workload.network.split(theta)
        for _ in range(workload.inner_steps):
            gradients = torch.func.grad(self.loss)(
                fast, slow, support_x, support_y
            )
            if workload.first_order:
                gradients = [g.detach() for g in gradients]
            fast = [
                w - workload.inner_lr * g
                for w, g in zip(fast, gradients, strict=True)
            ]
        return self.loss(fast, slow, query_x, query_y)
