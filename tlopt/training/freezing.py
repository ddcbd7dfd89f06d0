"""Which layers train: the stages of a network, from the input on, and what is kept as it is."""

from __future__ import annotations

from torch import nn

from tlopt.networks import head

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def stages(model: nn.Module) -> list[list[nn.Module]]:
    """Return the stages of a network, from the input to the classifier, each a list of modules.

    A network's children are its stages; a list of blocks that holds most of the weights counts as
    many. Children without weights belong to none, and a norm belongs to the layer before it. The
    last stage is the classifier alone.
    """
    classifiers = head.find(model).layers
    found: list[list[nn.Module]] = []
    for module in _expanded(model):
        if not any(True for _ in module.parameters()) or module in classifiers:
            continue
        if isinstance(module, NORMS) and found:
            found[-1].append(module)
        else:
            found.append([module])
    return [*found, list(classifiers)]


def _expanded(model: nn.Module) -> list[nn.Module]:
    total = sum(p.numel() for p in model.parameters())
    classifiers = head.find(model).layers
    result: list[nn.Module] = []
    for child in model.children():
        size = sum(p.numel() for p in child.parameters())
        holds_classifier = child not in classifiers and any(m in classifiers for m in child.modules())
        # A container that is more than half of the network says nothing about its depth.
        if holds_classifier or (size > total / 2 and isinstance(child, nn.Sequential | nn.ModuleList)):
            result += _expanded_children(child)
        else:
            result.append(child)
    return result if len(result) > 1 else [child for c in result for child in c.children()] or result


def _expanded_children(container: nn.Module) -> list[nn.Module]:
    return list(container.children())


def parameter_stages(model: nn.Module) -> dict[str, int]:
    """Return parameter name -> index of its stage; the classifier's is the highest.

    Parameters that lie in no stage, such as a bare tensor of the network itself, count to the first.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    result = dict.fromkeys(names.values(), 0)
    for index, modules in enumerate(stages(model)):
        for module in modules:
            for parameter in module.parameters():
                result[names[id(parameter)]] = index
    return result


def freeze(model: nn.Module, *, below: int) -> None:
    """Let only the stages from `below` on train.

    Args:
        model: The network.
        below: Index of the first stage that trains.
    """
    place = parameter_stages(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(place[name] >= below)


def set_mode(model: nn.Module, *, below: int, frozen_norm: bool) -> None:
    """Put a network into training mode, with its frozen parts in evaluation mode.

    Args:
        model: The network.
        below: Index of the first stage that trains; batch norms under it keep their statistics.
        frozen_norm: Keep the statistics of all batch norms: those of a small set are worse than the pretrained
            ones (as Keras' guide "Transfer learning & fine-tuning" advises).
    """
    model.train()
    for index, modules in enumerate(stages(model)):
        for module in modules:
            for part in module.modules():
                if index < below or (frozen_norm and isinstance(part, nn.modules.batchnorm._BatchNorm)):
                    part.training = False


def first_trained(model: nn.Module, *, moves: str, frozen_stages: int, epoch: int, epochs: int) -> int:
    """Return the index of the first stage that trains in an epoch.

    "gradual" begins with the classifier and adds stages evenly, from the top down, until all of
    them train at half of the epochs (after arXiv 1801.06146).
    """
    top = len(stages(model)) - 1
    lowest = min(frozen_stages, top)
    if moves == "head":
        return top
    if moves == "gradual":
        span = max(1, epochs // 2)
        return max(lowest, round(top - (top - lowest) * min(1.0, epoch / span)))
    return lowest
