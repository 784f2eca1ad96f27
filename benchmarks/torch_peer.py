"""PyTorch: what its peers share, the network and its loss."""

import torch
import torch.nn.functional as F
from workloads import EPSILON, Task


class TorchPeer:
    """Parameters, data and Adam; `gradient` is what peers differ in.

    Kernels of convolutions are kept as PyTorch has them, `[F, C, 3, 3]`, and
    images as `[n, C, H, W]`.
    """

    def __init__(self, workload, dtype, variant):
        if workload.is_regression:  # a second thread is only waited for
            torch.set_num_threads(1)
        self.workload = workload
        self.conv = CONVOLUTIONS.get(variant)
        data = workload.data(dtype)
        self.batch = Task(*(_channels_first(torch.tensor(d)) for d in data))
        self.theta = [
            _to_torch(torch.tensor(w, dtype=getattr(torch, dtype)))
            for w in workload.initial_weights()
        ]
        for w in self.theta:
            w.requires_grad_()
        self.adam = torch.optim.Adam(self.theta, 1e-3)

    def step(self, iterations):
        """Does meta-iterations, and returns when they are done."""
        for _ in range(iterations):
            for w, gradient in zip(self.theta, self.gradient(), strict=True):
                w.grad = gradient
            self.adam.step()

    def meta_gradient(self):
        """Returns the meta-gradient."""
        return [_to_keras(g).numpy() for g in self.gradient()]

    def predict(self, fast, slow, x):
        """Returns the network's outputs for examples of one task."""
        network = self.workload.network
        *hidden, (kernel, bias) = zip(fast[::2], fast[1::2], strict=True)
        for i, (w, b) in enumerate(hidden):
            if slow:
                x = self.conv(x, w, network.stride) + b[:, None, None]
                x = normalise(x) + slow[i][:, None, None]
            else:
                x = x @ w + b
            x = F.relu(x)
            if network.max_pool:
                x = F.max_pool2d(x, 2)
        if network.flatten:  # in Keras's order: rows, columns, channels
            x = x.permute(0, 2, 3, 1).flatten(1)
        elif slow:
            x = x.mean((2, 3))
        return x @ kernel + bias

    def loss(self, fast, slow, x, y):
        """Returns the loss of examples of one task."""
        prediction = self.predict(fast, slow, x)
        if self.workload.is_regression:
            return F.mse_loss(prediction, y)
        each = F.cross_entropy(prediction, y.long(), reduction="sum")
        return each / self.workload.shots


def native_conv(x, kernel, stride):
    """Returns the "same" convolution by PyTorch's own operation."""
    return F.conv2d(_pad(x, stride), kernel, stride=stride)


def im2col_conv(x, kernel, stride):
    """Returns the "same" convolution as a product of kernel and patches."""
    side = -(-x.shape[-1] // stride)
    patches = F.unfold(_pad(x, stride), 3, stride=stride)
    return (kernel.flatten(1) @ patches).unflatten(2, (side, side))


CONVOLUTIONS = {"native": native_conv, "im2col": im2col_conv}


def normalise(x):
    """Returns x by its own mean and variance."""
    x = x - x.mean((0, 2, 3), keepdim=True)
    return x * torch.rsqrt((x * x).mean((0, 2, 3), keepdim=True) + EPSILON)


def _pad(x, stride):
    side = x.shape[-1]
    padding = (-(-side // stride) - 1) * stride + 3 - side
    before, after = padding // 2, padding - padding // 2
    return F.pad(x, (before, after, before, after))


def _channels_first(x):
    return x.movedim(-1, -3).contiguous() if x.ndim == 5 else x


def _to_torch(w):
    return w.permute(3, 2, 0, 1).contiguous() if w.ndim == 4 else w


def _to_keras(w):
    return w.permute(2, 3, 1, 0) if w.ndim == 4 else w
