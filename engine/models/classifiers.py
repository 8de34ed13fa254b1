"""Image classifiers: small ones to train here, architectures of torchvision and timm by name, a user's own by file.

Nothing here reaches a network: weights come from files the user names.
"""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from traklens.engine.models.weights import load_state
from traklens.stores.errors import ModelError
from traklens.stores.specs import ModelSpec

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OURS = ("resnet9", "resnet18")  # for pictures of 32 pixels; torchvision's resnet18 is "torchvision:resnet18"
WIDTHS = {"resnet9": 16, "resnet18": 64}  # of the first layer; "resnet9-64" names another
WIDE = re.compile(r"(resnet9|resnet18)(?:-(\d{1,4}))?")
SMALL, LARGE = 32, 224


def classifier_spec(name: str, classes: Sequence[str], *, size: int | None = None) -> ModelSpec:
    """Describe a classifier: `resnet9`, `resnet18` (both for 32 pixels; `resnet9-64` is wider), a name of torchvision or timm
    (with or without "torchvision:" or "timm:"), or FILE.py:FUNCTION of the user's own, called with the number of classes.

    Raises ModelError for a name that none of them knows.
    """
    family, architecture = _family(name)
    small = family in ("traklens", "file")
    mean, std = (CIFAR_MEAN, CIFAR_STD) if small else (IMAGENET_MEAN, IMAGENET_STD)
    config = {"family": family, "architecture": architecture, "classes": list(classes)}
    config["image_size"] = size or (SMALL if small else LARGE)
    mode = "bicubic" if family == "timm" else "bilinear"
    return ModelSpec(name, config, mean, std, interpolation=mode)


def _family(name: str) -> tuple[str, str]:
    for family in ("torchvision", "timm"):
        if name.startswith(f"{family}:"):
            architecture = name.removeprefix(f"{family}:")
            if architecture in _names(family):
                return family, architecture
            raise _unknown(name, family)
    if ".py:" in name:
        return "file", name
    if WIDE.fullmatch(name):
        return "traklens", name
    for family in ("torchvision", "timm"):
        if name in _names(family):
            return family, name
    raise _unknown(name, "torchvision or timm")


def _names(family: str) -> list[str]:
    if family == "torchvision":
        import torchvision

        return torchvision.models.list_models(module=torchvision.models)
    if importlib.util.find_spec("timm") is None:
        return []
    import timm

    return timm.list_models()


def _unknown(name: str, family: str) -> ModelError:
    return ModelError(
        f"model {name!r}",
        f"no architecture of {family}",
        f"{', '.join(OURS)}, a name of torchvision or timm, or FILE.py:FUNCTION",
        "Check the name.",
    )


def build_classifier(spec: ModelSpec, *, seed: int = 0) -> nn.Module:
    """The architecture with random weights drawn from `seed` alone. ModelError when it cannot be built."""
    family, architecture = spec.config["family"], spec.config["architecture"]
    classes = len(spec.config["classes"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "traklens":
            found = WIDE.fullmatch(architecture)
            assert found is not None  # `_family` took it for ours
            width = int(found[2]) if found[2] else WIDTHS[found[1]]
            return ResNet9(classes, width) if found[1] == "resnet9" else ResNet18(classes, width)
        if family == "torchvision":
            import torchvision

            return _without_in_place(torchvision.models.get_model(architecture, weights=None, num_classes=classes))
        if family == "timm":
            import timm

            return _without_in_place(timm.create_model(architecture, pretrained=False, num_classes=classes))
        return _own(architecture, classes)


def _own(name: str, classes: int) -> nn.Module:
    """What a function (or class) in a user's file makes of the number of classes."""
    file, _, function = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"model {name}", f"no file {path}", "a Python file", "Check the path.")
    spec = importlib.util.spec_from_file_location(f"traklens_model_{path.stem}", path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = getattr(module, function)(classes)
    except Exception as error:
        raise ModelError(
            f"model {name}", f"{type(error).__name__}: {error}", f"{function}(number of classes)", "Check the file."
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"model {name}", type(made).__name__, "a torch.nn.Module", "Return the model.")
    return made


def load_classifier(spec: ModelSpec, path: Path) -> nn.Module:
    """The classifier with the weights of a file, in evaluation mode and float32. ModelError as `load_state`."""
    return load_state(build_classifier(spec), path, spec.name)


def _without_in_place(model: nn.Module) -> nn.Module:
    """Activations that leave their input as it is: its value is needed again for per-sample gradients."""
    for part in model.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    return model


def head_of(model: nn.Module) -> nn.Linear | None:
    """The last linear layer, whose input are the features that examples are compared by; None where there is none."""
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    return linear[-1] if linear else None


def logits_and_features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits [B, C] and the input of the last linear layer [B, d] (None where there is none, or it is no matrix)."""
    head, seen = head_of(model), []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) if head is not None else None
    try:
        logits = model(images)
    finally:
        if handle is not None:
            handle.remove()
    features = seen[-1] if seen and seen[-1].ndim == 2 else None
    return logits, features


def _convolution(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = _convolution(width, width), _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x))


class ResNet9(nn.Module):
    """The small ResNet of CIFAR speed records (Page 2018), as TRAK's CIFAR experiments use it at width 64; 16 suits a CPU.

    Pictures [B, 3, S, S] with S a multiple of 8 → logits [B, classes].
    """

    def __init__(self, classes: int, width: int = WIDTHS["resnet9"]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(3, width),
            _convolution(width, 2 * width, pool=True),
            _Residual(2 * width),
            _convolution(2 * width, 4 * width, pool=True),
            _convolution(4 * width, 4 * width, pool=True),
            _Residual(4 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * width, classes)
        self.scale = 0.2  # of the logits, without which they grow too fast at first

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.head(self.body(x))


class _Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        around = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.around = nn.Sequential(*around) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.around(x))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) with the stem of CIFAR: pictures [B, 3, S, S], S from 32 → logits [B, classes]."""

    def __init__(self, classes: int, width: int = WIDTHS["resnet18"]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            layers += [_Block(inputs, outputs, 1 if stage == 0 else 2), _Block(outputs, outputs, 1)]
            inputs = outputs
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))
