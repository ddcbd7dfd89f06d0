"""The networks that a search chooses from: by their names, with weights from a file, or as artifacts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tlopt import registry, trusted
from tlopt.artifact import Artifact, sha256
from tlopt.cards.card import CARD_NAME
from tlopt.errors import ArtifactError, MissingLibraryError, PluginError, StageError, wrapping
from tlopt.reading.names import shown_name
from tlopt.search.once import digest_of
from tlopt.trusted import places

# Small classifiers that integers do no harm, in the order of their multiply-adds within each source.
DEFAULTS = (
    "pip:efficientnet_lite0",
    "pip:efficientnet_lite1",
    "pip:efficientnet_lite2",
    "timm:mobilenetv3_large_100",
    "timm:mobilenetv2_100",
    "timm:resnet18",
    "timm:regnetx_016",
    "timm:resnet50",
)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that a search may choose.

    Args:
        name: ``source:name``, also of the network in an artifact.
        weights: A safetensors file that replaces the pretrained weights.
        artifact: A torch or ONNX artifact that is gone on with.
        content: What decides the network besides its name: the digest of the weights, of the artifact, or of the
            module that makes it.
    """

    name: str
    weights: Path | None = None
    artifact: Path | None = None
    content: str = ""

    @property
    def label(self) -> str:
        """What tables call it."""
        return shown_name(self.name if self.artifact is None else self.artifact)

    @property
    def digest(self) -> str:
        """Identity of the network: 16 hexadecimal digits that no path goes into."""
        return digest_of(self.name, self.content)

    def opened_artifact(self) -> Artifact | None:
        """Open the artifact if it is one.

        Raises:
            ArtifactError: It is damaged, or it runs on a GPU only.
        """
        return (
            None
            if self.artifact is None
            else Artifact.load(self.artifact).expect("torch", "onnx").expect_classifier("The search")
        )


def network(name: str | Path, *, weights: Path | None = None) -> Network:
    """Return the network of a name, or that of an artifact's folder.

    Args:
        name: ``source:name``, or a folder.
        weights: A safetensors file that replaces the pretrained weights.

    Raises:
        ArtifactError: The folder is no artifact of a network, or the file cannot be read.
        PluginError: The name is of no source.
    """
    if os.path.exists(Path(name) / CARD_NAME):  # noqa: PTH110 - Path raises for a name too long
        artifact = Artifact.load(name).expect("torch", "onnx").expect_classifier("The search")
        return Network(name=artifact.card.model, artifact=Path(name), content=artifact.digest)
    model = str(name)
    if ":" not in model:
        raise PluginError(
            f"A model is named source:name, and no artifact lies at {shown_name(model[:100])}.",
            hint="For example pip:efficientnet_lite0 or timm:resnet18; tlopt list models shows more.",
        )
    if weights is not None:
        try:
            return Network(name=model, weights=weights, content=sha256(weights))
        except OSError as error:
            raise ArtifactError(f"The weights {weights} cannot be read: {error.strerror or error}.") from error
    return Network(name=model, content=code_of(model))


def code_of(model: str) -> str:
    """Return the sha256 of the user's own module that makes a network; empty if none does. Nothing is imported."""
    module, is_named, _ = model.removeprefix("module:").partition(":")
    if not is_named or module in registry.names("sources"):
        return ""
    place = places.locate(module) or places.locate(module, [str(Path.cwd())])
    return place.sha256 if place else ""


def check(network: Network) -> None:
    """Open a network, once; weights that are not here yet are downloaded.

    Raises:
        ArtifactError: The artifact is damaged, or the weights do not fit.
        PluginError: The network is unknown, or its weights cannot be reached.
        MissingLibraryError: The source's library is not installed.
        StageError: Its library failed.
    """
    from tlopt import sources

    if network.artifact is not None:
        network.opened_artifact()
        return
    with wrapping(f"Opening {network.label}"):
        sources.load(network.name, classes=2, weights_file=network.weights)


def problem(network: Network) -> str:
    """Return why a network cannot be opened here; empty if it can."""
    try:
        check(network)
    except (ArtifactError, MissingLibraryError, PluginError, StageError) as error:
        return error.message
    return ""


def default_networks() -> tuple[tuple[Network, ...], dict[str, str]]:
    """Return the networks that are tried if nobody names any, and why the others of them are left out.

    Those of a hub are among them if their weights were downloaded before.

    Returns:
        Those that can be opened here, and name -> reason of the rest.
    """
    found, left_out = [], {}
    for name in DEFAULTS:
        one = network(name)
        if reason := _out_of_reach(name) or problem(one):
            left_out[name] = reason
        else:
            found.append(one)
    return tuple(found), left_out


def _out_of_reach(model: str) -> str:
    """Return why the weights of a network are not here, empty if they may be: nothing is downloaded unasked."""
    source, _, name = model.partition(":")
    try:
        module = registry.load("sources", source)
    except MissingLibraryError as error:
        return error.message
    kept = getattr(module, "kept", None)  # only sources whose weights come from a hub have it
    if kept is None or kept(name):
        return ""
    return "Its weights are not on this machine. They are downloaded if you name it with --models."


def own_modules(networks: tuple[Network, ...]) -> None:
    """Check that the code of the users' own modules may run, before anything of it is imported.

    Raises:
        PluginError: It may not.
    """
    for one in networks:
        source = one.name.removeprefix("module:").partition(":")[0]
        if one.artifact is None and source not in registry.names("sources"):
            trusted.allow(one.name.removeprefix("module:"))
