"""The logits of images that differ from known ones in a small window, computed from what is known.

A layer of k × k taps and stride s lets a window of h pixels reach at most (h + k − 2) ÷ s + 1 of its outputs along an
axis; all other activations are those of the known image. So the first layers are computed on patches, until a patch
covers most of its map or a layer looks at all pixels; from there on the network runs as it is. Of the Square attack's
5000 queries on images of 32 × 32 pixels 4000 change 5 × 5 pixels or fewer.

The function is the same, up to the rounding of sums in another order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from deatbench.archs.normalize import Normalize
from deatbench.engine.patches import KnownMap, Layer, Patch, Span
from deatbench.engine.shadow import AttackForm
from deatbench.engine.shadow_layers import ShadowNorm, ShadowNormalize

LARGEST_SHARE = 0.6  # of a map: a patch that covers more is not worth its detour
MOST_BYTES = 2**30  # of activations that are kept for the images of a search
SAME = 1e-4  # of the largest logit: is it the same function?
LEAST_SAVED = 5_000_000  # multiplications for an image: below, the detour costs threads of one process more
SMALL = 3  # windows of up to this part of the image's side
PROBE = 8  # images on which all that is seen
PIXELWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish, nn.Identity),
    *(nn.Dropout, nn.BatchNorm2d, ShadowNorm, ShadowNormalize, Normalize),
)
PIXELWISE_CALLS = {
    F.relu,
    F.leaky_relu,
    F.silu,
    F.gelu,
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    "relu",
    "relu_",
    "sigmoid",
    "tanh",
}
SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
IN_PLACE = {operator.iadd, "add_", "relu_"}


def neighbours(form: AttackForm, z_NCHW: Tensor, count: Callable[[int], None]) -> Neighbours | None:
    """What computes neighbours of `z_NCHW` for less than `form` does; None where that is not the same, or no gain."""
    side = min(z_NCHW.shape[2:]) // SMALL
    if z_NCHW.device.type != "cpu" or not side:
        return None
    try:
        near = Neighbours(form, z_NCHW, count)
        known = near.probed
        top_P, left_P = (torch.arange(len(known)) * step % (z_NCHW.shape[2] - side + 1) for step in (5, 7))
        x_PCHW, windows_PCSS = known.clone(), known[:, :, :side, :side].flip(3)
        for image, (top, left) in enumerate(zip(top_P.tolist(), left_P.tolist(), strict=True)):
            x_PCHW[image, :, top : top + side, left : left + side] = windows_PCSS[image]
        found_PK, expected_PK = near.logits(windows_PCSS, torch.arange(len(known)), top_P, left_P), form(x_PCHW)
    except Exception:  # anybody's network: a layer that is not what it seems, a map that does not fit into memory
        return None
    same = bool((found_PK - expected_PK).abs().max() <= SAME * expected_PK.abs().max())
    return near if same and near.saved >= LEAST_SAVED else None


class Neighbours(fx.Interpreter):
    """The network on images near N known ones. One thread at a time; `remember` an image before its neighbours come.

    Args:
        form: float32, on the CPU.
        z_NCHW: the known images, of which a few are remembered already.
        count: is told how many images pass through the network.
    """

    def __init__(self, form: AttackForm, z_NCHW: Tensor, count: Callable[[int], None]) -> None:
        super().__init__(form.net)
        self.saved = 0  # multiplications for an image that the latest run did without
        self.probed = z_NCHW[:PROBE]
        self._count, self._images = count, len(z_NCHW)
        self._layers = _layers(form.net)
        self._carrying = _carrying(form.net, self._layers)
        self._pads = _pads(self._carrying, self._layers)
        self._maps: dict[fx.Node, KnownMap] = {}
        self._remembers = True  # whether the images of this run are to be known
        self._keep_what_a_pixel_reaches()
        self.remember(torch.arange(len(self.probed)), self.probed)

    @property
    def bytes(self) -> int:
        """What is kept of the N images."""
        return sum(known.values_NHWC.nbytes for known in self._maps.values())

    def small(self, side: int) -> bool:
        """Whether a window of side² pixels is worth the detour."""
        return all(SMALL * side <= edge for edge in self.probed.shape[2:])

    def remember(self, of_M: Tensor, z_MCHW: Tensor) -> None:
        """The images `of_M` of the N are these, from now on."""
        self._of, self._remembers = of_M, True
        self._count(len(of_M))
        self.run(z_MCHW)

    def logits(self, windows_PCSS: Tensor, of_P: Tensor, top_P: Tensor, left_P: Tensor) -> Tensor:
        """Of the images `of_P` with these windows at these places, float32 [P, K]."""
        side = windows_PCSS.shape[3]
        self._of, self._remembers, self.saved = of_P, False, 0
        self._count(len(of_P))
        found: Tensor = self.run(Patch(windows_PCSS, Span(top_P, side), Span(left_P, side)))
        return found

    def _keep_what_a_pixel_reaches(self) -> None:
        """Leave out the deeper maps: patches that start as one pixel already cover too much of them."""
        images, self._images = self._images, 1
        self.remember(torch.arange(1), self.probed[:1])
        self._reached = {node for node in self._carrying if node.op == "placeholder"}
        middle = torch.tensor([self.probed.shape[2] // 2]), torch.tensor([self.probed.shape[3] // 2])
        self.logits(self.probed[:1, :, :1, :1], torch.arange(1), *middle)
        self._images, self._maps = images, {}
        self._carrying = self._reached
        self._pads = _pads(self._carrying, self._layers)

    def run_node(self, n: fx.Node) -> Any:
        if self._remembers:
            value = super().run_node(n)
            if n in self._pads:
                self._map(n, value).write(self._of, value)
            return value
        patches = {node: self.env[node] for node in n.all_input_nodes if isinstance(self.env[node], Patch)}
        patch = self._carried(n, patches) if patches and n in self._carrying else None
        if patch is not None:
            self._reached.add(n)
            return patch
        for node, changed in patches.items():
            self.env[node] = self._maps[node].whole(self._of, changed)
        return super().run_node(n)

    def _map(self, node: fx.Node, value_MCHW: Tensor) -> KnownMap:
        if node not in self._maps:
            self._maps[node] = KnownMap(self._images, value_MCHW.shape[1:], self._pads[node])
            if self.bytes > MOST_BYTES:
                raise MemoryError("the maps of so many images are not kept")
        return self._maps[node]

    def _carried(self, node: fx.Node, patches: dict[fx.Node, Patch]) -> Patch | None:
        """What changes of a node's value; None where that is too much of it, or not known well enough."""
        if len(patches) < len(node.all_input_nodes):
            return None
        if (layer := self._layers.get(node)) is not None:
            (source,) = node.all_input_nodes
            return self._through(layer, source, patches[source])
        widest = max(patches.values(), key=lambda patch: patch.rows.size * patch.columns.size)
        if not all(widest.rows.holds(patch.rows) and widest.columns.holds(patch.columns) for patch in patches.values()):
            return None
        before = dict(self.env)
        for source, patch in patches.items():
            cut = patch is not widest and len(patches) > 1
            maps = self._maps[source].cut(self._of, patch, widest.rows, widest.columns) if cut else patch.values_PCHW
            self.env[source] = maps
        value: Tensor = super().run_node(node)
        self.env.update(before)
        return replace(widest, values_PCHW=value)

    def _through(self, layer: Layer, source: fx.Node, patch: Patch) -> Patch | None:
        known = self._maps[source]
        rows, columns = layer.rows.reached(patch.rows, known.height), layer.columns.reached(patch.columns, known.width)
        outputs = layer.rows.outputs(known.height) * layer.columns.outputs(known.width)
        if rows.size * columns.size > LARGEST_SHARE * outputs:
            return None
        self.saved += (outputs - rows.size * columns.size) * layer.products
        cut = known.cut(self._of, patch, layer.rows.seen(rows), layer.columns.seen(columns))
        return Patch(layer.run(cut), rows, columns)


def _layers(net: fx.GraphModule) -> dict[fx.Node, Layer]:
    calls = [node for node in net.graph.nodes if node.op == "call_module" and len(node.args) == 1 and not node.kwargs]
    found = {node: Layer.of(net.get_submodule(str(node.target))) for node in calls}
    return {node: layer for node, layer in found.items() if layer is not None}


def _carrying(net: fx.GraphModule, layers: Mapping[fx.Node, Layer]) -> set[fx.Node]:
    """The nodes through which a patch can be followed: layers of taps, pixel by pixel, sums; from the image on."""
    found: set[fx.Node] = set()
    for node in net.graph.nodes:
        follows = node.op == "placeholder" or (node in layers or _pixelwise(net, node) or node.target in SUMS)
        sources = node.all_input_nodes
        alone = not _in_place(net, node) or len(sources[0].users) == 1  # nobody else sees what is written over
        if follows and alone and found.issuperset(sources):
            found.add(node)
    return found


def _pixelwise(net: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        return isinstance(module, PIXELWISE) and not (module.training and isinstance(module, nn.BatchNorm2d))
    return node.op in ("call_function", "call_method") and node.target in PIXELWISE_CALLS


def _in_place(net: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(net.get_submodule(str(node.target)), "inplace", False))
    return node.target in IN_PLACE or bool(node.kwargs.get("inplace"))


def _pads(carrying: set[fx.Node], layers: Mapping[fx.Node, Layer]) -> dict[fx.Node, int]:
    """The nodes whose maps are kept, because more than a patch of them may be asked for, and the zeros around each."""
    found = {}
    for node in carrying:
        if any(user not in carrying or user in layers or user.target in SUMS for user in node.users):
            padding = [max(of.rows.padding, of.columns.padding) for user in node.users if (of := layers.get(user))]
            found[node] = max(padding, default=0)
    return found
