"""A PointNet++ written for the `pointnet2` extension, moved by changing one import.

The network below is what a project built on ``pointnet2_utils`` and ``pointnet2_modules`` looks like: channel-first
features, keyword-only modules. The one line that changed is marked. It learns to tell spheres from boxes.
"""

import torch
from torch import nn

# from pointnet2_ops.pointnet2_modules import PointnetFPModule, PointnetSAModule, PointnetSAModuleMSG
from tenfold.compat.pointnet2 import PointnetFPModule, PointnetSAModule, PointnetSAModuleMSG


class Classifier(nn.Module):
    """Two set abstractions, one group of all points, and a propagation for an auxiliary point-wise output."""

    def __init__(self) -> None:
        super().__init__()
        self.sa1 = PointnetSAModuleMSG(
            npoint=64, radii=[0.3, 0.6], nsamples=[8, 16], mlps=[[0, 16, 16], [0, 16, 16]]
        )
        self.sa2 = PointnetSAModule(mlp=[32, 64], npoint=None)
        self.fp = PointnetFPModule(mlp=[32, 16])
        self.classes = nn.Linear(64, 2)
        self.extent = nn.Conv1d(16, 1, 1)

    def forward(self, xyz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class logits (B, 2) and the predicted distance of every point from the centre (B, N)."""
        centers, features = self.sa1(xyz)
        _, whole = self.sa2(centers, features)
        points = self.fp(xyz, centers, None, features)
        return self.classes(whole[..., 0]), self.extent(points)[:, 0]


def shapes(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Spheres (0) and boxes (1) of 128 surface points."""
    label = torch.arange(count) % 2
    direction = torch.randn(count, 128, 3, generator=generator)
    sphere = direction / direction.norm(dim=2, keepdim=True)
    box = direction / direction.abs().amax(dim=2, keepdim=True)
    return torch.where(label[:, None, None] == 0, sphere, box), label


def main(steps: int = 60) -> dict[str, float]:
    """Train for some steps and return the first and the last loss."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = Classifier()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        xyz, label = shapes(16, generator)
        logits, extent = net(xyz)
        loss = nn.functional.cross_entropy(logits, label)
        loss = loss + nn.functional.mse_loss(extent, xyz.norm(dim=2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return {"first_loss": losses[0], "last_loss": losses[-1]}


if __name__ == "__main__":
    print(main())
