"""Weights on disk: safetensors plus what the card says about the architecture, never a pickle.

The model of an artifact is rebuilt by `tlopt.sources.open_model`, which uses this module.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tlopt.errors import ArtifactError
from tlopt.networks import noted
from tlopt.reading import files

FILE = "model.safetensors"


def save(model: nn.Module, folder: Path) -> dict[str, int]:
    """Write a model's weights into a folder.

    Returns:
        What rebuilding the model needs besides the weights: the groups of each grouped convolution
        (all other widths follow from the weights' shapes).
    """
    # safetensors refuses tensors that share memory, such as tied weights: each gets its own.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / FILE)
    return {
        name: module.groups
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
    }


def snapshot(model: nn.Module, device: str | None = None) -> dict[str, torch.Tensor]:
    """Return copies of a network's weights and buffers, on a device; None for where each is."""
    return {name: tensor.detach().to(device or tensor.device, copy=True) for name, tensor in model.state_dict().items()}


def read(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        ArtifactError: It is missing or no safetensors file, or a weight is no finite number.
    """
    try:
        files.expect_regular(path)
        if _is_pickle(path):
            raise ArtifactError(
                f"{path} is a pickle of torch.save. Weights are read from safetensors files, which hold no code.",
                hint=f"Convert it:\n{conversion(path)}",
            )
        state: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise ArtifactError(
            f"{path} cannot be read as a safetensors file: {error}",
            hint="Save weights with safetensors.torch.save_file(model.state_dict(), path).",
        ) from error
    for name, tensor in state.items():
        if not _finite(tensor):
            raise ArtifactError(
                f"{path}: the weights {name!a} hold numbers that are not finite (NaN or infinity).",
                hint="The training went wrong, or the file is damaged: make it again.",
            )
    return state


def conversion(path: Path) -> str:
    """Return the command that makes a safetensors file of one of torch.save, whatever holds the weights in it."""
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"d = torch.load({path.name!r}, map_location='cpu', weights_only=True); "
        "d = d.get('state_dict', d.get('model', d)); "
        "save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, "
        f"{path.with_suffix('.safetensors').name!r})"
    )
    return f'python -c "{code}"'


def _is_pickle(path: Path) -> bool:
    """Whether a file is a zip archive, as torch.save writes it, or a pickle, as it did before 1.6."""
    with files.open_regular(path) as file:
        start = file.read(4)
    return start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) and (
        path.suffix != ".safetensors"
    )


def _finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # Not every operator knows the types of 8 bits.
    return bool(torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all())


def restore(model: nn.Module, state: Mapping[str, torch.Tensor], *, groups: Mapping[str, int], where: str) -> nn.Module:
    """Give a freshly built model the widths and the values of saved weights, in place.

    Args:
        model: The architecture, of any widths.
        state: Saved weights; their names must be exactly the model's.
        groups: Convolution name -> groups, for grouped convolutions.
        where: Name of the weights, for error messages.

    Raises:
        ArtifactError: A name is missing or left over, a tensor has another rank, or the widths of a
            layer's tensors differ.
    """
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        parts = [
            f"{len(names)} {word} ({names[0]})" for names, word in ((missing, "missing"), (extra, "left over")) if names
        ]
        raise ArtifactError(
            f"{where} does not fit the architecture: {' and '.join(parts)}.",
            hint="The file must hold the weights of this architecture, under the same names.",
        )
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        for key, tensor in tensors.items():
            wanted = state.get(prefix + key)
            if wanted is None or wanted.shape == tensor.shape:
                continue
            if wanted.dim() != tensor.dim():
                raise ArtifactError(
                    f"{where}: {prefix + key} has shape {tuple(wanted.shape)}, the architecture {tuple(tensor.shape)}."
                )
            fresh = torch.empty(wanted.shape, dtype=tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                setattr(module, key, nn.Parameter(fresh, requires_grad=tensor.requires_grad))
            else:
                module.register_buffer(key, fresh)
        _check(module, prefix, where)
        resize(module, groups.get(name))
    noted.renew(model)
    load(model, state)
    return model


def load(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a network its weights.

    torch keeps the version of each module beside the tensors of a state dict, which files and copies
    lose. Modules that look at it (torchvision's MNASNet) get that of the network itself.

    Args:
        model: The network.
        state: Weights; their names and shapes must be exactly the network's.
    """
    versioned = OrderedDict(state)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned)


_AS_WIDE = ("weight", "bias", "running_mean", "running_var")  # tensors of a layer with a row for each channel


def _check(module: nn.Module, prefix: str, where: str) -> None:
    """Raise an error if the tensors of a layer are not all of one width."""
    if not isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm | nn.LayerNorm | nn.modules.batchnorm._BatchNorm):
        return
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    # A layer may have other tensors of any length, such as the vectors of a spectral norm.
    widths = {key: len(own[key]) for key in _AS_WIDE if own.get(key) is not None and own[key].dim()}
    for key, width in widths.items():
        if others := {other for other in widths.values() if other != width}:
            raise ArtifactError(
                f"{where}: {prefix}{key} has {width} channels, but the layer's other tensors have {others.pop()}.",
                hint="The file was not written by one network; make it again.",
            )


def resize(module: nn.Module, groups: int | None = None) -> None:
    """Make a layer's own width attributes agree with the shapes of its parameters, in place."""
    if isinstance(module, nn.Conv2d):
        outputs, per_group = module.weight.shape[:2]
        if groups is None:
            groups = outputs if module.groups == module.in_channels > 1 and per_group == 1 else module.groups
        module.groups, module.out_channels, module.in_channels = groups, outputs, per_group * groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = len(module.weight)
