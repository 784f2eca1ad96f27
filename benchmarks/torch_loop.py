"""PyTorch as most write it: tasks in a Python loop, `create_graph=True`."""

import torch
from torch_peer import TorchPeer
from workloads import Task


class Peer(TorchPeer):
    """Gradients of one task after another, added up."""

    def gradient(self):
        """Returns the meta-gradient as a list of tensors."""
        gradients = [
            torch.autograd.grad(self.task_loss(Task(*task)), self.theta)
            for task in zip(*self.batch, strict=True)
        ]
        return [torch.stack(g).mean(0) for g in zip(*gradients, strict=True)]

    def task_loss(self, task):
        """Returns the query loss of one task after adaptation to it."""
        workload = self.workload
        fast, slow = workload.network.split(self.theta)
        for _ in range(workload.inner_steps):
            loss = self.loss(fast, slow, task.support_x, task.support_y)
            gradients = torch.autograd.grad(
                loss, fast, create_graph=not workload.first_order
            )
            fast = [
                w - workload.inner_lr * g
                for w, g in zip(fast, gradients, strict=True)
            ]
        return self.loss(fast, slow, task.query_x, task.query_y)
